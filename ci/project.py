"""The root folder, the version and the second distribution of this source tree."""

from __future__ import annotations

from pathlib import Path

import tomli

ROOT = Path(__file__).parents[1]
COMPAT_PROJECT = "flash-attn-3"
"""The distribution that compat/ makes: flash-attn3 under the module names of FlashAttention-3."""


def project_version() -> str:
    """Return the version in pyproject.toml."""
    document = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(document["project"]["version"])
