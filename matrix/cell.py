"""What a user has (a cell) and what the farm builds (an artefact), each with its one-string name."""

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
    """``90``: what the GPU calls itself, without the ``a`` of a compile target; or ``newer``."""

    def __str__(self) -> str:
        python = self.python.replace(".", "", 1)
        return f"{self.platform}-py{python}-torch{self.torch}-{self.cuda}-sm{self.sm}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read the name of a cell.

        Raises:
            CellError: if ``text`` names no cell.
        """
        match = _CELL.fullmatch(text)
        if match is None:
            raise CellError(f"{text!r} is no cell; a cell looks like linux_x86_64-py312-torch2.11-cu130-sm90")
        python = f"{match['major']}.{match['minor']}{match['threads']}"
        return cls(match["platform"], python, match["torch"], match["cuda"], match["sm"])


@dataclass(frozen=True, order=True)
class Artefact:
    """One wheel to build: a platform, and the toolkit that compiles its kernels.

    ``str(artefact)`` and :meth:`parse` are inverses of each other.
    """

    platform: str
    toolkit: str

    def __str__(self) -> str:
        return f"{self.platform}-cuda{self.toolkit}"

    @classmethod
    def parse(cls, text: str) -> Artefact:
        """Read the name of an artefact.

        Raises:
            CellError: if ``text`` names no artefact.
        """
        match = _ARTEFACT.fullmatch(text)
        if match is None:
            raise CellError(f"{text!r} is no artefact; an artefact looks like linux_x86_64-cuda12.8")
        return cls(match["platform"], match["toolkit"])
