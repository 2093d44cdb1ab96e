"""The root folder of this source tree, and the versions that its release gives the drop-in."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


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
