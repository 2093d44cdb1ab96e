"""The prune stage: removes candidates that are older than the matrix keeps them.

The manifest keeps the name and the reason of a removed wheel, so that the name never stands for other bytes.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from ci.errors import FarmError
from ci.output import is_one_line
from ci.stages.revise import revise
from ci.store.folder import as_store
from index_site.hosting import FILES
from index_site.manifest import (
    Manifest,
    Removed,
    Wheel,
    named_supports,
    timestamp,
    without_collector,
)
from index_site.releases import newest_release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter
    from ci.store.store import Store


def prune(*, site: Store | Path, days: int, reason: str, now: datetime, progress: Reporter) -> Manifest:
    """Remove the candidates that were published more than ``days`` ago, and return the new manifest.

    Kept are stable wheels, the wheels of snapshots, and the newest release whatever its age. The pages no
    longer list a wheel before its files are deleted.

    Args:
        site: the site, or the folder of one.
        days: how long a candidate is kept.
        reason: why the index becomes shorter, one line.
        now: the time of the removal.
        progress: receives each removed wheel.

    Raises:
        FarmError: the reason is empty, or holds more than one line or a control character.
        UnsafeSite, CorruptManifest, DiskFull, StoreConflict, StoreFailed: as for publishing.
    """
    if not is_one_line(reason):
        raise FarmError(f"reason: should be one line that says why wheels are removed, got {reason!r}")
    store = as_store(site)
    oldest = timestamp(now - timedelta(days=days))
    known: set[str] = set()

    def change(before: Manifest) -> Manifest:
        known.clear()
        known.update(wheel.filename for wheel in before.removed)
        old = _outdated(before, oldest, _frozen(store, before))
        kept = _without(before.wheels, old)
        removed = (Removed(filename=wheel.filename, sha256=wheel.sha256, reason=reason) for wheel in old)
        return before.model_copy(
            update={
                "wheels": kept,
                "supports": named_supports(kept, before.supports.values()),
                "removed": tuple(sorted((*before.removed, *removed), key=lambda wheel: wheel.filename)),
            }
        )

    with store.writing(create=False, report=progress.say), without_collector():
        manifest = revise(store, change)
        for wheel in manifest.removed:  # those of a killed run, too
            for suffix in ("", ".metadata"):
                store.delete(f"{FILES}/{wheel.filename}{suffix}")
    for wheel in manifest.removed:
        if wheel.filename not in known:
            progress.say(f"{wheel.filename}: removed, since {reason}")
    return manifest


def _outdated(before: Manifest, oldest: str, frozen: set[str]) -> list[Wheel]:
    """Return the candidates of before a time, and the compatibility wheels that require only such ones."""
    newest = newest_release([wheel for wheel in before.shown if not wheel.is_compat])
    spared = frozen | {wheel.filename for wheel in newest}
    old = [
        wheel
        for wheel in before.wheels
        if wheel.channel == "candidate" and wheel.upload_time < oldest and wheel.filename not in spared
    ]
    kept = _without(before.wheels, old)
    return old + [
        wheel
        for wheel in kept
        if wheel.is_compat
        and wheel.channel == "candidate"
        and wheel.required_among(old)
        and not wheel.required_among(kept)
        and wheel.filename not in frozen
    ]


def _without(wheels: Sequence[Wheel], removed: Sequence[Wheel]) -> tuple[Wheel, ...]:
    """Return the wheels but for those removed."""
    names = {wheel.filename for wheel in removed}
    return tuple(wheel for wheel in wheels if wheel.filename not in names)


def _frozen(store: Store, manifest: Manifest) -> set[str]:
    """Return the names of the files that snapshots list."""
    names: set[str] = set()
    for snapshot in manifest.snapshots:
        for path in snapshot.pages:
            page = store.read(path) if path.endswith(".json") else None
            if page is not None:
                names |= {file["filename"] for file in json.loads(page.data).get("files", ())}
    return names
