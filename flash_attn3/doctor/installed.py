"""The doctor of an installed wheel, which has the facts of its own build and no index."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from flash_attn3._build import read_build
from flash_attn3.doctor.command import WRONG, main
from flash_attn3.doctor.packages import PROJECT
from flash_attn3.doctor.release import Release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flash_attn3._build import Build

_FORWARD = "fwd"  # a GPU is served if it has kernels of this operator


def run_doctor(argv: Sequence[str]) -> int:
    """Run the doctor; the result is that of :func:`flash_attn3.doctor.command.run`."""
    try:
        release = installed_release()
    except ImportError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return WRONG
    return main(release, argv, prog="python -m flash_attn3 doctor")


def installed_release() -> Release:
    """Return what this build needs of a machine.

    Raises:
        ImportError: its build record is missing or damaged.
    """
    build = read_build()
    try:
        needs = metadata.metadata(PROJECT)
        python, requires = needs["Requires-Python"] or "", needs.get_all("Requires-Dist") or []
    except metadata.PackageNotFoundError:  # a copy of the package alone
        python, requires = "", []
    return Release(
        version=build.version,
        base_url="",
        python=_oldest(python),
        torch=_oldest(next((need for need in requires if need.startswith("torch")), "")),
        tags=build.platform.split("."),
        sms=_sms(build),
        cells=(),
        exclusions=(),
        pip="",
        uv="",
        compat="",
    )


def _oldest(specifier: str) -> str:
    """``torch>=2.9`` -> ``2.9``; ``0`` without a lower bound."""
    found = re.search(r">=\s*([\d.]+)", specifier)
    return found.group(1) if found else "0"


def _sms(build: Build) -> dict[str, str]:
    """Return the SMs that have forward kernels; product names are the matrix's, which is not in a wheel."""
    targets = [(sm.rstrip("af"), code) for op, sm, code in build.targets if op == _FORWARD]
    served = dict.fromkeys(sorted({sm for sm, code in targets if code == "cubin"}, key=int), "")
    later = {"newer": "later GPUs, through PTX"} if any(code == "ptx" for _, code in targets) else {}
    return {**served, **later}
