"""A cell (what a user has) and an artefact (what the farm builds), each with a name that can be parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from matrix.errors import CellError

_CELL = re.compile(
    r"(?P<platform>[a-z0-9_]+)"
    r"-py(?P<major>[1-9])(?P<minor>0|[1-9][0-9]*)(?P<threads>t?)"
    r"-torch(?P<torch>(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*))"
    r"-(?P<cuda>cu[1-9][0-9]+)"
    r"-sm(?P<sm>[1-9][0-9]+|newer)",
    re.ASCII,
)
_ARTEFACT = re.compile(r"(?P<platform>[a-z0-9_]+)-cuda(?P<toolkit>[1-9][0-9]*\.(?:0|[1-9][0-9]*))", re.ASCII)


@dataclass(frozen=True, order=True)
class Cell:
    """One combination of platform, Python, torch, CUDA build of torch, and GPU.

    ``str(cell)`` and :meth:`parse` are inverses of each other.
    """

    platform: str
    """``linux_x86_64``, ``linux_aarch64`` or ``win_amd64``."""
    python: str
    """``3.12``, or ``3.13t`` for the free-threaded build."""
    torch: str
    """``2.11``."""
    cuda: str
    """``cu130``."""
    sm: str
    """Compute capability without the ``a`` of a compile target, such as ``90``; or ``newer``."""

    def __str__(self) -> str:
        python = self.python.replace(".", "", 1)
        return f"{self.platform}-py{python}-torch{self.torch}-{self.cuda}-sm{self.sm}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Parse the name of a cell.

        Raises:
            CellError: ``text`` is not the name of a cell.
        """
        match = _CELL.fullmatch(text)
        if match is None:
            raise CellError(f"cell: should look like linux_x86_64-py312-torch2.11-cu130-sm90, got {text!r}")
        python = f"{match['major']}.{match['minor']}{match['threads']}"
        return cls(match["platform"], python, match["torch"], match["cuda"], match["sm"])


@dataclass(frozen=True, order=True)
class Artefact:
    """One wheel to build: its platform, and the toolkit that compiles its kernels.

    ``str(artefact)`` and :meth:`parse` are inverses of each other.
    """

    platform: str
    toolkit: str

    def __str__(self) -> str:
        return f"{self.platform}-cuda{self.toolkit}"

    @classmethod
    def parse(cls, text: str) -> Artefact:
        """Parse the name of an artefact.

        Raises:
            CellError: ``text`` is not the name of an artefact.
        """
        match = _ARTEFACT.fullmatch(text)
        if match is None:
            raise CellError(f"artefact: should look like linux_x86_64-cuda12.8, got {text!r}")
        return cls(match["platform"], match["toolkit"])
