"""The package name of FlashAttention-3, in front of ``flash_attn3``, which does the work."""

from flash_attn3 import __version__

__all__ = ["__version__"]
