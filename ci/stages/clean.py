"""The clean stage: remove from a work folder what no build needs any more and a build can make again."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.engine.toolkits import toolkit_folder
from ci.files import clear_scratch
from ci.lock import lock
from ci.platforms.venv import VirtualEnvironment
from ci.stages.emulate import EMULATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter
    from matrix.model import Matrix

_OBJECT = re.compile(r"[0-9a-f]{62}")
_TOOLKIT = re.compile(r"\d+\.\d+-[0-9a-f]{12}")
_MACHINE = re.compile(r"\w+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Removed:
    """What was removed: how many of a kind, and their bytes."""

    kind: str
    count: int
    size: int


def clean(*, work: Path, matrix: Matrix, unused_since: datetime, progress: Reporter) -> tuple[Removed, ...]:
    """Remove old compiled objects, unpinned toolkits, unused machines and environments, rests of killed runs.

    Wheels, reports and sites stay, and so does every file whose name is not one that the farm gives.

    Args:
        work: the work folder.
        matrix: pins the toolkits that stay.
        unused_since: compiled objects that a build used since then stay.
        progress: receives a line if another farm works in the folder and this one has to wait.
    """
    cache = work / "cache"
    pinned = {toolkit_folder(toolkit, cache) for toolkit in matrix.toolkit}
    with lock(cache, progress.say):
        for name in ("cache/objects", "build", "dist"):
            clear_scratch(work / name)
        objects = (path for path in _objects(cache / "objects") if _used(path) < unused_since.timestamp())
        toolkits = (path for path in _folders(cache / "toolkits", _TOOLKIT) if path not in pinned)
        removed = [
            _remove("compiled objects", objects, _unlink),
            _remove("toolkits", toolkits, _remove_folder),
        ]
    with lock(cache / "emulated", progress.say):
        clear_scratch(cache / "emulated")
        current = {emulated.folder(cache) for emulated in EMULATED}
        machines = (path for path in _folders(cache / "emulated", _MACHINE) if path not in current)
        removed.append(_remove("emulated machines", machines, _remove_folder))
    with lock(work / "venvs", progress.say):
        latest = {path.resolve() for path in (work / "venvs").iterdir() if path.is_symlink()}
        environments = (path for path in _folders(work / "venvs", re.compile(r"\w+-py\d+-[0-9a-f]{12}")))
        unused = (path for path in environments if path.resolve() not in latest)
        removed.append(_remove("environments", unused, _remove_environment))
    return tuple(removed)


def _objects(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("??/*") if _OBJECT.fullmatch(path.name) and path.is_file())


def _used(path: Path) -> float:
    return path.stat().st_atime


def _folders(parent: Path, names: re.Pattern[str]) -> Iterator[Path]:
    found = (path for path in parent.glob("*") if names.fullmatch(path.name))
    return (path for path in found if path.is_dir() and not path.is_symlink())


def _remove(kind: str, paths: Iterator[Path], remove: Callable[[Path], bool]) -> Removed:
    """Remove paths one by one; count those that could be removed."""
    sizes = []
    for path in paths:
        size = _size(path)
        if remove(path):
            sizes.append(size)
    return Removed(kind, len(sizes), sum(sizes))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files)


def _unlink(path: Path) -> bool:
    path.unlink()
    return True


def _remove_folder(path: Path) -> bool:
    shutil.rmtree(path)
    return True


def _remove_environment(path: Path) -> bool:
    return VirtualEnvironment(path).remove_unless_used()
