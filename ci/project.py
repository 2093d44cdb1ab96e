"""Where this tree is and what it calls itself."""

from __future__ import annotations

from pathlib import Path

import tomli

ROOT = Path(__file__).parents[1]


def project_version() -> str:
    """Return the version that pyproject.toml states."""
    document = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(document["project"]["version"])
