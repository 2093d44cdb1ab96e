"""Changes a site: the manifest by one conditional write, then each page that differs from what it renders to.

Files that the new manifest names are stored before it. A killed change therefore leaves complete pages with
working links, and the next one writes the pages of the new manifest. Where a store cannot lock out another
publisher, the one that comes second sees that the manifest is another, and starts again from that one.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ci.errors import StoreConflict
from ci.store.store import ChangedMeanwhile
from index_site.errors import CorruptManifest
from index_site.hosting import folder_address
from index_site.manifest import CHANNELS, MANIFEST_NAME, Manifest, dump_manifest, parse_manifest
from index_site.pages import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.store.store import Store

ATTEMPTS = 12
_FIRST_PAUSE_S = 0.05
_LISTED = re.compile(r'href="\.\./files/([^"#]+)#sha256=([0-9a-f]{64})"')
_EVERY_WHEEL = "candidate/index.html"
"""The page that lists every wheel that is shown."""


def revise(store: Store, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest of a site by what ``change`` makes of it, write its pages, and return it.

    Args:
        store: of the site, being written.
        change: called again with the newer manifest when another publisher has replaced it.

    Raises:
        CorruptManifest: the site's manifest cannot be read, or lacks a wheel that the site's pages list.
        StoreConflict: another publisher replaced the manifest each time, or the store returns old versions.
    """
    for attempt in range(ATTEMPTS):
        before, version = published(store)
        after = change(before)
        with suppress(ChangedMeanwhile):
            write_site(store, after, version)
            return after
        _pause(attempt)
    raise _conflict(store)


def published(store: Store) -> tuple[Manifest, str | None]:
    """Return the site's manifest with its version; an empty one without a version for a new site.

    Raises:
        CorruptManifest: it cannot be read, or lacks a wheel that the site's pages list.
    """
    page = store.read(_EVERY_WHEEL)  # before the manifest, which another publisher replaces first
    listed = _LISTED.findall(page.data.decode(errors="replace")) if page else []
    if not listed and store.version(MANIFEST_NAME) is None:
        return Manifest(), None
    manifest, version = stored_manifest(store)
    known = {(wheel.filename, wheel.sha256) for wheel in manifest.wheels}
    known |= {(wheel.filename, wheel.sha256) for wheel in manifest.removed}
    for name, digest in listed:
        if (unquote(name), digest) not in known:
            raise CorruptManifest(
                f"{store.at(MANIFEST_NAME)}: lacks {unquote(name)} (sha256 {digest[:12]}…), which the site's "
                "pages list; an index never shrinks: restore the newer manifest"
            )
    return manifest, version


def stored_manifest(store: Store) -> tuple[Manifest, str]:
    """Return the site's manifest with its version.

    Raises:
        CorruptManifest: it is missing, truncated, altered or of another schema.
    """
    found = store.read(MANIFEST_NAME)
    if found is None:
        raise CorruptManifest(f"{store.at(MANIFEST_NAME)}: cannot be read: there is no such file")
    return parse_manifest(found.data, name=store.at(MANIFEST_NAME)), found.version


def write_site(store: Store, manifest: Manifest, version: str | None) -> None:
    """Write the manifest, then each page that differs from what the manifest renders to.

    Args:
        store: of the site, being written.
        manifest: the new manifest.
        version: of the manifest that it replaces.

    Raises:
        ChangedMeanwhile: the stored manifest has another version; nothing was written.
        StoreConflict: other publishers replaced pages each time.
    """
    data = dump_manifest(manifest)
    found = store.read(MANIFEST_NAME)
    if found is None or found.data != data or found.version != version:
        version = store.replace(MANIFEST_NAME, data, version)
    for attempt in range(ATTEMPTS):
        with suppress(ChangedMeanwhile):
            return _write_pages(store, manifest, version)
        _pause(attempt)
        manifest, version = published(store)
    raise _conflict(store)


def _write_pages(store: Store, manifest: Manifest, version: str | None) -> None:
    """Write the pages of a manifest as long as the stored manifest is this version.

    A newer manifest may be stored at any time, and its pages after it. So the manifest is compared after the
    pages: had one of them been of a newer manifest, the manifest would be newer, too.
    """
    pages = list(stored_pages(store, manifest))
    found = [store.compare(path, page) for path, page in pages]
    if store.version(MANIFEST_NAME) != version:
        raise ChangedMeanwhile(store.at(MANIFEST_NAME))
    for (path, page), (stored, is_equal) in zip(pages, found, strict=True):
        if not is_equal:
            store.replace(path, page, stored)
    _delete_stale(store, {path for path, _ in pages})
    if store.version(MANIFEST_NAME) != version:
        raise ChangedMeanwhile(store.at(MANIFEST_NAME))


def _delete_stale(store: Store, known: set[str]) -> None:
    """Delete the pages of projects that a channel no longer lists."""
    for channel in CHANNELS:
        for path in [path for path in store.paths(f"{channel}/") if path not in known]:
            store.delete(path)


def stored_pages(store: Store, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Yield the pages of a manifest with the paths that the store keeps them at, in the order of writing."""
    for path, page in render(manifest).items():
        for address in store_addresses(store, path):
            yield address, page


def store_addresses(store: Store, path: str) -> tuple[str, ...]:
    """Return the paths at which a store keeps a page."""
    folder = None if store.has_folders else folder_address(path)
    return (path,) if folder is None else (path, folder)


def _pause(attempt: int) -> None:
    """Wait before the next attempt, each time longer, and for a random time: two publishers must not meet."""
    time.sleep(random.uniform(0.5, 1) * min(_FIRST_PAUSE_S * 2**attempt, 2))  # noqa: S311 (no secret)


def _conflict(store: Store) -> StoreConflict:
    return StoreConflict(
        f"{store.name}: other publishers changed it {ATTEMPTS} times meanwhile, or the store returns old "
        "versions of its files; nothing is lost: run the same command again"
    )
