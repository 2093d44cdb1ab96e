"""The root folder and the versions of this source tree."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import tomli

ROOT = Path(__file__).parents[1]


def project_version() -> str:
    """Return the version in pyproject.toml."""
    document = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(document["project"]["version"])


def compat_version(release: str) -> str:
    """Return the version of the compatibility wheel that requires a release of the project.

    Raises:
        ValueError: no compatibility wheel can belong to such a release.
    """
    return str(_version_module()["drop_in_version"](release))


@cache
def _version_module() -> dict[str, Any]:
    # By its path: the package itself imports torch, and flash_attn3 with its libraries.
    return runpy.run_path(str(ROOT / "compat" / "flash_attn_3" / "_version.py"))
