"""Who gets no ``flash_attn_with_kvcache`` because appending to a cache has no kernel yet.

The continuous batching of transformers (5.5 to 5.23) appends through the function wherever
``flash_attn_interface`` has one, and asks nothing else: no signature, no build flag. Where the name is
None, it writes to the cache itself and calls ``flash_attn_varlen_func``. So it gets None. Every other
caller gets the function, which refuses new keys by name.
"""

from __future__ import annotations

_APPENDING = frozenset({"transformers"})
"""Packages that append through the function without asking whether it can."""


def appends(module: str) -> bool:
    """Return whether a module of this name would append to a cache through the function."""
    return module.partition(".")[0] in _APPENDING
