"""Whether this process is ``python -m flash_attn3``."""

from __future__ import annotations

import sys


def is_command(name: str = "") -> bool:
    """Return whether the package is being imported for its command line, or for one command of it.

    ``python -m flash_attn3`` imports the package first, and ``sys.argv`` starts with ``-m`` until it has.
    """
    named = not name or sys.argv[1:2] == [name]
    return named and sys.argv[:1] == ["-m"] and any(_is_ours(word) for word in sys.orig_argv)


def _is_ours(word: str) -> bool:
    return word.partition(".")[0] == "flash_attn3"
