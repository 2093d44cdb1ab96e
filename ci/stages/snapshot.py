"""The snapshot stage: freezes what ``stable`` lists under the address of a date."""

from __future__ import annotations

import hashlib
from datetime import date as calendar_date
from typing import TYPE_CHECKING

from ci.errors import FarmError, SnapshotExists
from ci.stages.revise import revise, store_addresses
from ci.store.folder import as_store
from index_site.machine import snapshot_pages
from index_site.manifest import Manifest, Snapshot, without_collector

if TYPE_CHECKING:
    from pathlib import Path

    from ci.progress import Reporter
    from ci.store.store import Store


def snapshot(*, site: Store | Path, date: str, progress: Reporter) -> Manifest:
    """Freeze what ``stable`` lists now, and return the site's new manifest.

    The pages lie at ``DATE/`` and never change, also when a wheel is yanked later; they share the wheels with
    the channels.

    Args:
        site: the site, or the folder of one.
        date: the name of the snapshot, such as ``2026-12-07``.
        progress: receives what was frozen.

    Raises:
        FarmError: it is no date, or ``stable`` is empty.
        SnapshotExists: a snapshot of that date holds something else.
        UnsafeSite, CorruptManifest, DiskFull, StoreConflict, StoreFailed: as for publishing.
    """
    _require_date(date)
    store = as_store(site)

    def change(before: Manifest) -> Manifest:
        pages = snapshot_pages(before, date)
        digests = {path: hashlib.sha256(pages[path]).hexdigest() for path in sorted(pages)}
        for found in before.snapshots:
            if found.date == date:
                _require_same(store, found, digests)
                return before
        if not before.on_channel("stable"):
            raise FarmError(f"{store.name}: stable lists no wheel, so that there is nothing to freeze")
        for path, page in pages.items():
            for address in store_addresses(store, path):
                store.put(address, page)
        frozen = (*before.snapshots, Snapshot(date=date, pages=digests))
        return before.model_copy(update={"snapshots": tuple(sorted(frozen, key=lambda item: item.date))})

    with store.writing(create=False, report=progress.say), without_collector():
        manifest = revise(store, change)
    progress.say(f"{date}: stable with its {len(manifest.on_channel('stable'))} wheels, at {date}/simple/")
    return manifest


def _require_date(text: str) -> None:
    try:
        found: str | None = calendar_date.fromisoformat(text).isoformat()
    except ValueError:
        found = None
    if found != text:
        raise FarmError(f"date: should be a day such as 2026-12-07, got {text!r}")


def _require_same(store: Store, found: Snapshot, digests: dict[str, str]) -> None:
    if found.pages != digests:
        raise SnapshotExists(
            f"{store.name}: the snapshot {found.date} holds other wheels or other facts of them; a snapshot "
            "never changes: give another date"
        )
