"""The compatibility wheel: flash-attn3 under the names that callers of FlashAttention-3 import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.project import ROOT
from ci.wheel import package

if TYPE_CHECKING:
    from pathlib import Path


def make_compat_wheel(work: Path) -> Path:
    """Make the wheel from this tree and return it, in ``dist/`` of the work folder.

    Raises:
        BuildFailed, DiskFull: as :func:`ci.wheel.package` does.
    """
    scratch = work / "build" / "compat" / "backend"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    return package(ROOT / "compat", scratch=scratch, dist=work / "dist", environment={})
