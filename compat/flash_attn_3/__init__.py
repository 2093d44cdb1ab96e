"""The package name of FlashAttention-3, implemented by ``flash_attn3``."""

import flash_attn3
from flash_attn_3._version import drop_in_version

__version__ = drop_in_version(flash_attn3.__version__)

__all__ = ["__version__"]
