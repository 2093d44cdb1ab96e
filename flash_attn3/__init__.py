"""FlashAttention-3 for PyTorch, prebuilt: exact attention on GPUs from sm_80 on.

``flash_attn_func``, ``flash_attn_varlen_func``, ``flash_attn_qkvpacked_func``, ``flash_attn_with_kvcache``,
``flash_attn_append_kvcache`` and ``flash_attn_combine`` are the public calls.
``python -m flash_attn3`` prints what is installed and whether it can run on this machine;
``python -m flash_attn3 selftest`` checks the install on the GPU of this machine;
``python -m flash_attn3 doctor`` says what is missing here, and explains an error.
"""

import sys

from flash_attn3._command import is_command

if is_command("doctor"):
    # It runs where torch is missing, too old or damaged, and so before anything imports torch.
    from flash_attn3.doctor.installed import run_doctor

    sys.exit(run_doctor(sys.argv[2:]))

try:
    from flash_attn3 import _library

    _library.load()
except ImportError as error:
    if is_command():  # its user gets the reason and no traceback
        sys.exit(f"cannot run here: {error}")
    raise

# These modules need the operators, which `load` registers.
from flash_attn3 import _ops
from flash_attn3._build import read_build
from flash_attn3.attention import flash_attn_func, flash_attn_qkvpacked_func
from flash_attn3.combine import flash_attn_combine
from flash_attn3.kvcache import (
    flash_attn_append_kvcache,
    flash_attn_with_kvcache,
    get_scheduler_metadata,
)
from flash_attn3.varlen import flash_attn_varlen_func

_ops.register()

__version__ = read_build().version

__all__ = [
    "__version__",
    "flash_attn_append_kvcache",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "get_scheduler_metadata",
]
