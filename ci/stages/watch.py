"""The watch stage: what an index of packages has that the matrix lacks, as a change to the matrix file."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomlkit
from packaging.version import Version

from matrix.model import MATRIX_FILE, PinnedWheel, read_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ci.engine.package_index import IndexWheel, PackageIndex
    from matrix.model import Matrix, Toolkit

_TORCH = "torch"
_KEPT = ("nvidia-cutlass", "nvidia-cuda-cccl", "nvidia-cuda-cccl-cu12")
"""Headers that a new toolkit takes from the one before: newer CCCL does not compile with this CUTLASS."""
_PYTHON_TAG = re.compile(r"cp3(\d+)")


@dataclass(frozen=True)
class Proposal:
    """What is new, in words, and the matrix file with it."""

    news: tuple[str, ...]
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change to the matrix file, as `patch` and `git apply` read it; empty if there is none."""
        path = "matrix/matrix.toml"
        lines = (self.before.splitlines(keepends=True), self.after.splitlines(keepends=True))
        return "".join(difflib.unified_diff(*lines, f"a/{path}", f"b/{path}"))


@dataclass(frozen=True)
class _NewToolkit:
    name: str
    cuda: tuple[int, ...]
    wheels: tuple[PinnedWheel, ...]


def watch(*, index: PackageIndex, file: Path = MATRIX_FILE) -> Proposal:
    """Compare a matrix file with an index.

    Looks for later torches, Pythons that the latest torch has wheels for, the latest CUDA compiler of each
    major version, and pinned wheels that the index yanked or dropped.

    Raises:
        MatrixError: the file is no valid matrix.
        IndexUnavailable: the index cannot be read.
    """
    matrix = read_matrix(file)
    projects = sorted({wheel.name for toolkit in matrix.toolkit for wheel in toolkit.wheels})
    listed = {project: index.wheels(project) for project in (_TORCH, *projects)}
    torches = _new_torches(matrix, listed[_TORCH])
    pythons = _new_pythons(matrix, listed[_TORCH])
    majors = _newest_of_each_major(matrix)
    toolkits = [new for newest in majors if (new := _new_toolkit(newest, listed)) is not None]
    before = file.read_text(encoding="utf-8")
    news = (
        *(f"torch {name} is out" for name in torches),
        *(f"torch has wheels for Python {name}" for name in pythons),
        *(f"CUDA compiler {toolkit.name} is out" for toolkit in toolkits),
        *(line for toolkit in matrix.toolkit for line in _lost(toolkit, listed)),
    )
    missing = [row for python in pythons if (row := _without_torch(matrix, python, listed[_TORCH]))]
    return Proposal(news, before, _changed(before, torches, pythons, toolkits, missing))


def _usable(wheels: Iterable[IndexWheel]) -> list[IndexWheel]:
    return [wheel for wheel in wheels if wheel.yanked is None and not wheel.version.is_prerelease]


def _minor(version: Version) -> str:
    return f"{version.major}.{version.minor}"


def _new_torches(matrix: Matrix, wheels: Iterable[IndexWheel]) -> list[str]:
    newest = max(map(Version, matrix.axes.torch))
    minors = {Version(_minor(wheel.version)) for wheel in _usable(wheels)}
    return [str(minor) for minor in sorted(minors) if minor > newest]


def _new_pythons(matrix: Matrix, wheels: Iterable[IndexWheel]) -> list[str]:
    """Return the Pythons of the latest torch that are later than those of the matrix."""
    usable = _usable(wheels)
    latest = max((wheel.version for wheel in usable), default=None)
    known = {(_python_minor(name), name.endswith("t")) for name in matrix.axes.python}
    newest = max(minor for minor, _ in known)
    found = {
        (int(match[1]), tag.abi.endswith("t"))
        for wheel in usable
        if wheel.version == latest
        for tag in wheel.tags
        if (match := _PYTHON_TAG.fullmatch(tag.interpreter)) and not tag.abi.startswith("abi")
    }
    new = sorted(python for python in found - known if python[0] >= newest)
    return [f"3.{minor}{'t' if free_threaded else ''}" for minor, free_threaded in new]


def _without_torch(matrix: Matrix, python: str, wheels: Iterable[IndexWheel]) -> dict[str, Any] | None:
    """Return the exclusion of the torches of the matrix that came before a Python; None if there are none."""
    tag = f"cp{python.rstrip('t').replace('.', '')}"
    abi = tag + "t" * python.endswith("t")
    serving = {
        Version(_minor(wheel.version))
        for wheel in _usable(wheels)
        if any(found.interpreter == tag and found.abi == abi for found in wheel.tags)
    }
    first = min(serving)
    if first <= min(map(Version, matrix.axes.torch)):
        return None
    reason = f"torch has no wheel for Python {python} ({abi}) before {first}"
    return {"python": [python], "torch": f"<{first}", "reason": reason}


def _python_minor(name: str) -> int:
    return int(name.rstrip("t").partition(".")[2])


def _newest_of_each_major(matrix: Matrix) -> list[Toolkit]:
    newest: dict[int, Toolkit] = {}
    for toolkit in sorted(matrix.toolkit, key=lambda toolkit: Version(toolkit.name)):
        newest[Version(toolkit.name).major] = toolkit
    return list(newest.values())


def _new_toolkit(newest: Toolkit, listed: Mapping[str, Sequence[IndexWheel]]) -> _NewToolkit | None:
    """Return the latest toolkit after ``newest`` for which the index has every wheel."""
    known = Version(newest.name)
    compiler = next(wheel for wheel in newest.wheels if "nvrtc" in wheel.name)
    minors = {Version(_minor(wheel.version)) for wheel in _usable(listed[compiler.name])}
    for minor in sorted((minor for minor in minors if minor > known), reverse=True):
        wheels = [
            pin if pin.name in _KEPT else _latest(pin, minor, listed[pin.name]) for pin in newest.wheels
        ]
        complete = tuple(wheel for wheel in wheels if wheel is not None)
        if len(complete) == len(wheels):
            cuda = newest.cuda if minor.major == known.major else (minor.major,)
            return _NewToolkit(str(minor), cuda, complete)
    return None


def _latest(pin: PinnedWheel, minor: Version, wheels: Sequence[IndexWheel]) -> PinnedWheel | None:
    """Return the latest wheel of a CUDA minor release that is for the platforms of the pinned wheel."""
    machines = {_machine(tag) for wheel in wheels if wheel.sha256 == pin.sha256 for tag in wheel.tags}
    fitting = [
        wheel
        for wheel in _usable(wheels)
        if _minor(wheel.version) == str(minor) and machines & {_machine(tag) for tag in wheel.tags}
    ]
    if not fitting:
        return None
    best = max(fitting, key=lambda wheel: (wheel.version, wheel.name))
    return PinnedWheel(name=pin.name, version=str(best.version), sha256=best.sha256)


def _machine(tag: Any) -> str:
    """Return the system and the processor of a tag: ``manylinux2014_x86_64`` -> ``linux_x86_64``."""
    return re.sub(r"^manylinux(\d+_\d+|\d+)?_", "linux_", str(tag.platform))


def _lost(toolkit: Toolkit, listed: Mapping[str, Sequence[IndexWheel]]) -> list[str]:
    """Return the pinned wheels that the index yanked, or does not have any more."""
    lines = []
    for pin in toolkit.wheels:
        held = [wheel for wheel in listed[pin.name] if wheel.sha256 == pin.sha256]
        if not held:
            lines.append(f"toolkit {toolkit.name}: {pin.name} {pin.version} is gone from the index")
        elif held[0].yanked is not None:
            lines.append(f"toolkit {toolkit.name}: {pin.name} {pin.version} was yanked: {held[0].yanked}")
    return lines


def _changed(
    before: str,
    torches: list[str],
    pythons: list[str],
    toolkits: list[_NewToolkit],
    exclusions: list[dict[str, Any]],
) -> str:
    """Return the text of the matrix file with new values, its comments and form as they were."""
    document: Any = tomlkit.parse(before)
    for axis, names in (("torch", torches), ("python", pythons)):
        for name in names:
            document["axes"][axis].append(name)
    for new in toolkits:
        table = tomlkit.table()
        table.add("name", new.name)
        table.add("cuda", list(new.cuda))
        wheels = tomlkit.aot()
        for pin in new.wheels:
            wheel = tomlkit.table()
            for key, value in pin.model_dump().items():
                wheel.add(key, value)
            wheels.append(wheel)
        wheels[-1].add(tomlkit.nl())
        table.add(tomlkit.nl())
        table.add("wheels", wheels)
        document["toolkit"].append(table)
    for exclusion in exclusions:
        document["exclude"][-1].add(tomlkit.nl())
        document["exclude"].append(tomlkit.item(exclusion))
    return tomlkit.dumps(document)
