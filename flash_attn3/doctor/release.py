"""What a release needs of a machine, and how it is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

AXES = ("platform", "torch", "cuda", "python", "sm")
OLDEST_DRIVER = "12.0"
"""The oldest CUDA version of a driver that loads the kernels; the pages of a site read it here, too."""


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version before any local part: ``2.11.0+cu130`` -> (2, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


@dataclass(frozen=True)
class Release:
    """A release as data: the site renders it from its manifest, a wheel has that of its own build.

    Attributes:
        version: of the release; empty if the site offers none.
        base_url: address of the site with its final slash, as it stands in the lines; empty for a wheel.
        python: the oldest Python.
        torch: the oldest torch.
        tags: the platform tags of its wheels, such as ``manylinux_2_17_x86_64``.
        sms: SM -> product names, of the GPUs that it serves; the SM ``newer`` stands for all later ones.
        cells: the combinations that it serves, as blocks of values of :data:`AXES`; empty if unknown.
        exclusions: blocks that nothing serves, with the reason; an empty axis stands for all values.
        pip: the arguments of ``pip`` that install it; empty if unknown.
        uv: the arguments of ``uv pip``; likewise.
        compat: the arguments of ``pip`` that install the modules of FlashAttention-3; likewise.
    """

    version: str
    base_url: str
    python: str
    torch: str
    tags: Sequence[str]
    sms: Mapping[str, str]
    cells: Sequence[Mapping[str, Sequence[str]]]
    exclusions: Sequence[Mapping[str, Any]]
    pip: str
    uv: str
    compat: str

    @property
    def gpus(self) -> str:
        """The GPUs that it serves, in words."""
        named = (
            f"{gpus} (sm_{sm})" if gpus else f"sm_{sm}" for sm, gpus in self.sms.items() if sm != "newer"
        )
        return "; ".join((*named, *filter(None, [self.sms.get("newer", "")])))

    def at(self, base_url: str) -> Release:
        """Return the release with another address of its site.

        Raises:
            ValueError: it is no address, or the release has none to replace.
        """
        if not re.fullmatch(r"(https?|file)://[^\s'\"$`;&|<>]+/", base_url):
            raise ValueError(f"--site: should be an address such as https://HOST/PATH/, got {base_url!r}")
        if not self.base_url:
            raise ValueError(f"--site: should not be given to the doctor of a wheel, got {base_url!r}")
        pip, uv, compat = (line.replace(self.base_url, base_url) for line in (self.pip, self.uv, self.compat))
        return replace(self, base_url=base_url, pip=pip, uv=uv, compat=compat)

    def sm_name(self, sm: int) -> str:
        """Return the name of the SM whose kernels a GPU runs; empty if there is none."""
        known = sorted(int(name) for name in self.sms if name.isdigit())
        same_major = [number for number in known if number // 10 == sm // 10 and number <= sm]
        if same_major:
            return str(same_major[-1])
        return "newer" if "newer" in self.sms and known and sm > known[-1] else ""

    def exclusion(self, cell: Mapping[str, str]) -> str:
        """Return why nothing serves a cell; empty if no exclusion holds it."""
        return next((item["reason"] for item in self.exclusions if _holds_all(item["cells"], cell)), "")

    def newest_torch(self, cell: Mapping[str, str], driver: str) -> tuple[str, str]:
        """Return the newest torch and CUDA build that are served on a platform, Python and GPU.

        Args:
            cell: with the axes that are known.
            driver: CUDA version of the driver, whose major version none may exceed; empty if unknown.
        """
        fixed = {axis: value for axis, value in cell.items() if axis not in ("torch", "cuda")}
        major = numbers(driver)[:1]
        pairs = [
            (torch, cuda)
            for block in self.cells
            if _holds(block, fixed)
            for torch in block["torch"]
            for cuda in block["cuda"]
            if not major or numbers(cuda_version(cuda))[:1] <= major
        ]
        return max(pairs, key=lambda pair: (numbers(pair[0]), numbers(pair[1])), default=("", ""))


def cuda_version(name: str) -> str:
    """``cu130`` -> ``13.0``."""
    return f"{name[2:-1]}.{name[-1:]}"


def _holds(block: Mapping[str, Sequence[str]], cell: Mapping[str, str]) -> bool:
    return all(not block[axis] or not cell.get(axis) or cell[axis] in block[axis] for axis in AXES)


def _holds_all(block: Mapping[str, Sequence[str]], cell: Mapping[str, str]) -> bool:
    """As :func:`_holds`, but an unknown value is in no list: a reason must be certain."""
    return all(not block[axis] or cell.get(axis, "") in block[axis] for axis in AXES)
