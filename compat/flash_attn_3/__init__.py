"""The package name of FlashAttention-3, implemented by ``flash_attn3``."""

from flash_attn3 import __version__

__all__ = ["__version__"]
