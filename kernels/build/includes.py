"""Which files a compile reads: the sources and what they include with quotes, without running a compiler."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def included_files(sources: Iterable[Path], folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return the sources and every file that they include, directly or not, sorted.

    Args:
        sources: The files to start from.
        folders: Where an included name is searched, after the folder of the file that includes it.

    Raises:
        FileNotFoundError: An included file is in none of the folders.
    """
    found: set[Path] = set()
    waiting = list(sources)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            places = [folder / name for folder in (path.parent, *folders)]
            included = next((place for place in places if place.is_file()), None)
            if included is None:
                raise FileNotFoundError(
                    f'{path}: includes "{name}", found at none of {", ".join(map(str, places))}'
                )
            waiting.append(included)
    return tuple(sorted(found))


def files_digest(files: Iterable[Path], root: Path) -> str:
    """Return the sha256, in hex, of the files' bytes and of their paths below `root`."""
    lines = (
        f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(files)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
