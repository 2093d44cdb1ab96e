"""The tune stage: rows that might serve better than those of the table, ready to be timed against them.

What :mod:`ci.gpu_side.tune` needs on a machine with a GPU is one folder: ``site/`` with the package,
``packs/`` with a kernel each, and ``plan.json``.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ci.errors import FarmError, UnknownCase
from ci.files import folder_atomically
from ci.gpu_side.tune import PLAN
from ci.names import matching, nearest
from ci.stages.build import Workshop, build, compile_rows
from kernels.build.pack import PackEntry, write_pack
from kernels.table import CANDIDATES, VARIANTS
from kernels.table.fwd import FwdTail

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from kernels.table.variant import Variant
    from matrix.cell import Artefact
    from matrix.model import Matrix


@dataclass(frozen=True)
class Case:
    """Calls that the same rows compete for: those of the table, and the candidates."""

    present: tuple[Variant, ...]
    candidates: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """The name of the row that serves the shortest sequences."""
        return min(self.present, key=_min_seqlen_q).name


def tune_cases(
    patterns: Sequence[str] = (),
    *,
    table: Sequence[Variant] = VARIANTS,
    candidates: Sequence[Variant] = CANDIDATES,
) -> tuple[Case, ...]:
    """Return the cases that have candidates, those that a pattern matches.

    A candidate that is compiled like a row of the table is that row, and is left out.

    Raises:
        UnknownCase: a pattern matches no case.
    """
    rivals: dict[tuple[object, ...], list[Variant]] = {}
    for row in candidates:
        rivals.setdefault(_served(row), []).append(row)
    cases = {}
    for served, rows in rivals.items():
        present = tuple(row for row in table if _served(row) == served)
        known = {_schedule(row) for row in present}
        case = Case(present, tuple(row for row in rows if _schedule(row) not in known))
        if case.candidates:
            cases[case.name] = case
    chosen = dict.fromkeys(cases) if not patterns else {}
    for pattern in patterns:
        found = matching(list(cases), pattern)
        if not found:
            raise UnknownCase(f"no case of the tuning matches {pattern!r}; {nearest(pattern, cases)}")
        chosen.update(dict.fromkeys(found))
    return tuple(cases[name] for name in chosen)


def prepare(
    *,
    cases: Sequence[Case],
    folder: Path,
    artefact: Artefact,
    matrix: Matrix,
    workshop: Workshop,
    progress: Reporter,
) -> None:
    """Compile the rows of all cases and fill ``folder`` with what travels, replacing what was in it.

    A candidate that the compiler or a gate refuses is left out, with a warning.

    Raises:
        FarmError: the folder holds other files; or as the build does.
        KernelsError: as the build does.
    """
    present = [row for case in cases for row in case.present]
    candidates = [row for case in cases for row in case.candidates]
    if folder.exists() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise FarmError(f"--prepare {folder}: holds files of somebody else; give an empty or a new folder")
    wheel = build(variants=present, artefact=artefact, matrix=matrix, workshop=workshop, progress=progress)
    compiled = compile_rows(
        variants=[*present, *candidates],
        artefact=artefact,
        matrix=matrix,
        workshop=workshop,
        progress=progress,
    )
    entries = {entry.variant.name: entry for entry in compiled}
    shutil.rmtree(folder, ignore_errors=True)
    with folder_atomically(folder) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch / "site")
        (scratch / "packs").mkdir()
        for entry in entries.values():
            # Alone in its pack and from length 0 on, the row serves every call that it is given.
            alone = _for_every_length(entry.variant)
            write_pack([PackEntry(alone, entry.image, entry.toolkit)], scratch / _pack(entry.variant))
        plan = {"toolkit": artefact.toolkit, "cases": [_planned(case, entries) for case in cases]}
        (scratch / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    progress.say(f"{folder}: {len(cases)} cases, {len(entries)} rows")


def _min_seqlen_q(row: Variant) -> int:
    return row.tail.min_seqlen_q if isinstance(row.tail, FwdTail) else 0


def _for_every_length(row: Variant) -> Variant:
    if not isinstance(row.tail, FwdTail):
        return row
    return replace(row, tail=replace(row.tail, min_seqlen_q=0))


def _served(row: Variant) -> tuple[object, ...]:
    """What a row serves, but for the lengths."""
    return (row.op, row.sm, row.code, row.dtype_in, row.dtype_out, row.head_dim, row.head_dim_v, row.mask)


def _schedule(row: Variant) -> tuple[tuple[str, str], ...]:
    """How a row is compiled, but for its name."""
    return tuple((name, value) for name, value in row.macros if value != row.name)


def _pack(row: Variant) -> str:
    return f"packs/{row.name}.fa3pack"


def _planned(case: Case, compiled: Collection[str]) -> dict[str, Any]:
    first = case.present[0]
    rows: list[tuple[Variant, int | None]] = [(row, _min_seqlen_q(row)) for row in case.present]
    rows += [(row, None) for row in case.candidates if row.name in compiled]
    return {
        "name": case.name,
        "dtype": first.dtype_in,
        "head_dim": first.head_dim,
        "head_dim_v": first.head_dim_v,
        "mask": first.mask,
        "rows": [
            {"name": row.name, "pack": _pack(row), "min_seqlen_q": start, "macros": dict(_schedule(row))}
            for row, start in rows
        ],
    }
