"""The root folder and the version of this source tree."""

from __future__ import annotations

from pathlib import Path

import tomli

ROOT = Path(__file__).parents[1]


def project_version() -> str:
    """Return the version in pyproject.toml."""
    document = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(document["project"]["version"])
