"""The names of the distributions on the index."""

from __future__ import annotations

PROJECT = "flash-attn3"
"""The distribution with the kernels; the install commands on the page install this one."""
COMPAT_PROJECT = "flash-attn-3"
"""The compatibility wheel: pure Python, requires one exact version of :data:`PROJECT`.

Its own version is that of the interface which it provides, and behind a plus that of the project.
"""
