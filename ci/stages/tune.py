"""The tune stage: compiles candidates for the kernel table, ready to be timed against the table's variants.

The result is one folder for a machine with a GPU, where :mod:`ci.gpu_side.tune` reads it: ``site/`` with the
package, ``packs/`` with one pack a variant, and ``plan.json``.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ci.errors import FarmError, UnknownTask
from ci.files import folder_atomically
from ci.gpu_side.tune_plan import PLAN
from ci.names import matching, nearest
from ci.stages.build import Workshop, build, compile_variants
from kernels.build.pack import PackEntry, write_pack
from kernels.table import CANDIDATES, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from ci.progress import Reporter
    from kernels.table.variant import Variant
    from matrix.cell import Artefact
    from matrix.model import Matrix


@dataclass(frozen=True)
class TuningTask:
    """The variants that compete for the same calls: those of the table, and the candidates."""

    present: tuple[Variant, ...]
    candidates: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """The name of the table's variant for the shortest sequences."""
        return min(self.present, key=_min_seqlen_q).name


def tuning_tasks(
    patterns: Sequence[str] = (),
    *,
    table: Sequence[Variant] = VARIANTS,
    candidates: Sequence[Variant] = CANDIDATES,
) -> tuple[TuningTask, ...]:
    """Return the tasks that have candidates, restricted to names that match a pattern if any are given.

    A candidate with the macros of a variant of the table is that variant, and is left out.

    Raises:
        UnknownTask: a pattern matches no task.
    """
    rivals: dict[tuple[object, ...], list[Variant]] = {}
    for variant in candidates:
        rivals.setdefault(_calls(variant), []).append(variant)
    tasks = {}
    for calls, variants in rivals.items():
        present = tuple(variant for variant in table if _calls(variant) == calls)
        known = {_schedule(variant) for variant in present}
        task = TuningTask(present, tuple(found for found in variants if _schedule(found) not in known))
        if task.candidates:
            tasks[task.name] = task
    chosen = dict.fromkeys(tasks) if not patterns else {}
    for pattern in patterns:
        found = matching(list(tasks), pattern)
        if not found:
            raise UnknownTask(f"no tuning task matches {pattern!r}; {nearest(pattern, tasks)}")
        chosen.update(dict.fromkeys(found))
    return tuple(tasks[name] for name in chosen)


def prepare(
    *,
    tasks: Sequence[TuningTask],
    folder: Path,
    artefact: Artefact,
    matrix: Matrix,
    workshop: Workshop,
    progress: Reporter,
) -> None:
    """Compile the variants of all tasks and write the folder that the GPU machine needs.

    A candidate that the compiler or a gate refuses is left out, with a warning.

    Args:
        tasks: what to compile.
        folder: the result; an earlier result is replaced.
        artefact: the platform and the toolkit.
        matrix: lists both.
        workshop: where to build, and with which engine.
        progress: receives the compiles as steps, and the result.

    Raises:
        FarmError: the folder holds other files, or the build failed.
        KernelsError: the build failed.
    """
    present = [variant for task in tasks for variant in task.present]
    candidates = [variant for task in tasks for variant in task.candidates]
    if strange := sorted(_names(folder) - {"site", "packs", PLAN}):
        raise FarmError(
            f"--prepare {folder}: holds files that are not the tuning's ({strange[0]}); give an empty folder"
        )
    wheel = build(variants=present, artefact=artefact, matrix=matrix, workshop=workshop, progress=progress)
    compiled = compile_variants(
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
            # Alone in its pack and without a minimal length, the variant serves every call of its task.
            alone = _for_every_length(entry.variant)
            write_pack([PackEntry(alone, entry.image, entry.toolkit)], scratch / _pack(entry.variant))
        plan = {"toolkit": artefact.toolkit, "tasks": [_planned(task, entries) for task in tasks]}
        (scratch / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    progress.say(f"{folder}: {len(tasks)} tuning tasks, {len(entries)} variants")


def _names(folder: Path) -> set[str]:
    """Return the names in a folder; none if it does not exist."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _min_seqlen_q(variant: Variant) -> int:
    """Return the shortest seqlen_q that a variant serves; 0 for operators whose tail has no such field."""
    return int(getattr(variant.tail, "min_seqlen_q", 0))


def _for_every_length(variant: Variant) -> Variant:
    if _min_seqlen_q(variant) == 0:
        return variant
    tail: Any = variant.tail
    return replace(variant, tail=replace(tail, min_seqlen_q=0))


def _calls(variant: Variant) -> tuple[object, ...]:
    """Return the fields that decide which calls a variant serves, without the lengths."""
    return (
        *(variant.op, variant.sm, variant.code, variant.dtype_in, variant.dtype_out),
        *(variant.head_dim, variant.head_dim_v, variant.mask),
    )


def _schedule(variant: Variant) -> tuple[tuple[str, str], ...]:
    """Return the macros that a variant is compiled with, without its name."""
    return tuple((name, value) for name, value in variant.macros if value != variant.name)


def _pack(variant: Variant) -> str:
    return f"packs/{variant.name}.fa3pack"


def _planned(task: TuningTask, compiled: Collection[str]) -> dict[str, Any]:
    """Return a task as :func:`ci.gpu_side.tune_plan.read_plan` reads it."""
    first = task.present[0]
    variants: list[tuple[Variant, int | None]] = [(found, _min_seqlen_q(found)) for found in task.present]
    variants += [(found, None) for found in task.candidates if found.name in compiled]
    return {
        "name": task.name,
        "op": first.op,
        "dtype": first.dtype_in,
        "head_dim": first.head_dim,
        "head_dim_v": first.head_dim_v,
        "mask": first.mask,
        "variants": [
            {
                "name": found.name,
                "pack": _pack(found),
                "min_seqlen_q": start,
                "macros": dict(_schedule(found)),
            }
            for found, start in variants
        ],
    }
