"""FlashAttention-3 for PyTorch, prebuilt: exact attention on GPUs from sm_80 on.

``flash_attn_func``, ``flash_attn_varlen_func``, ``flash_attn_qkvpacked_func`` and ``flash_attn_combine`` are
the public calls.
``python -m flash_attn3`` says what is installed and whether it can run here;
``python -m flash_attn3 selftest`` checks the install on the GPU of this machine.
"""

from flash_attn3 import _library

_library.load()

# These need the operators that the line above registered.
from flash_attn3 import _ops  # noqa: E402
from flash_attn3._build import read_build  # noqa: E402
from flash_attn3.attention import flash_attn_func, flash_attn_qkvpacked_func  # noqa: E402
from flash_attn3.combine import flash_attn_combine  # noqa: E402
from flash_attn3.varlen import flash_attn_varlen_func  # noqa: E402

_ops.register()

__version__ = read_build().version

__all__ = [
    "__version__",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
]
