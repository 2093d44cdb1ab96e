"""The C ABI of ``libflash_attn3.so``, through ctypes: no torch is involved.

What one operator has lies in the module of its name; that of forward is exported here, too.
"""

from flash_attn3._native.fwd import FwdArgs, forward, forward_kernel, forward_workspace
from flash_attn3._native.library import NativeError, Status, driver, version
from flash_attn3._native.pack import Code, Kernel, allow_kernels, kernels, require_device, set_pack
from flash_attn3._native.structures import Dtype, Mask, Scale, Sequences, TensorView

__all__ = [
    "Code",
    "Dtype",
    "FwdArgs",
    "Kernel",
    "Mask",
    "NativeError",
    "Scale",
    "Sequences",
    "Status",
    "TensorView",
    "allow_kernels",
    "driver",
    "forward",
    "forward_kernel",
    "forward_workspace",
    "kernels",
    "require_device",
    "set_pack",
    "version",
]
