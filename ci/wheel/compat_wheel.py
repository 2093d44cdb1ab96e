"""Makes the compatibility wheel: flash-attn3 under the module names of FlashAttention-3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.files import room_in
from ci.lock import lock
from ci.project import ROOT
from ci.wheel.make import package

if TYPE_CHECKING:
    from pathlib import Path

    from ci.progress import Reporter


def make_compat_wheel(work: Path, progress: Reporter) -> Path:
    """Make the compatibility wheel from this tree and return it; its folder is ``dist/`` of the work folder.

    Raises:
        BuildFailed, DiskFull: as :func:`ci.wheel.make.package` does.
    """
    with lock(work / "cache", progress.say), room_in(work):
        wheel = package(ROOT / "compat", work=work / "build" / "compat", dist=work / "dist", environment={})
    progress.say(f"built {wheel} (pure Python, module flash_attn_interface)")
    return wheel
