"""The rebuild stage: writes a lost or damaged manifest again, from the wheels, reports and pages of its site.

The wheels and the reports hold most facts, and the pages the others: upload times, yanks and channels. What
none of them holds is reported, and a wheel never reaches ``stable`` by a guess.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.errors import BadSignature, CorruptReport, CorruptWheel, FarmError, RacesAlone
from ci.proof.evidence import Evidence, read_archive, read_evidence
from ci.stages.admission import find_faults
from ci.stages.listing import Context, channelled, describe, summarise_build, with_evidence
from ci.stages.revise import stored_manifest, write_site
from ci.store.folder import as_store
from ci.wheel.compat_listing import followed
from ci.wheel.read import read_wheel
from index_site.errors import CorruptManifest
from index_site.hosting import FILES, REPORTS, snapshot_date
from index_site.manifest import (
    ACTIVE,
    CHANNELS,
    MANIFEST_NAME,
    Channel,
    Manifest,
    ProjectStatus,
    Snapshot,
    Wheel,
    named_supports,
    sort_wheels,
    timestamp,
    without_collector,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter
    from ci.proof.evidence import Policy
    from ci.store.store import Store


@dataclass(frozen=True)
class _Listed:
    """What the pages say of a wheel."""

    sha256: str
    channel: Channel
    upload_time: str
    yanked: str | None


def rebuild(
    *,
    site: Store | Path,
    now: datetime,
    progress: Reporter,
    context: Context,
    policy: Policy,
    archive: Path | None = None,
) -> Manifest:
    """Write the manifest of a site again, and its pages, and return it.

    Args:
        site: the site, or the folder of one.
        now: upload time of wheels that no page lists.
        progress: receives a warning for each fact that could not be known, with what stands for it.
        context: audits of the wheels, and what the matrix says; see :class:`Context`.
        policy: what a report needs to count; the vouchers of the lost manifest are not kept.
        archive: a folder of reports of the tree, which vouches for them.

    Raises:
        FarmError: the site's manifest can be read.
        UnsafeSite: the folder is no site.
        CorruptWheel: a wheel is damaged, or is not the one that the pages list.
        DiskFull: there is no room.
    """
    store = as_store(site)
    with store.writing(create=False, report=progress.say), without_collector():
        _require_broken(store)
        replaced = store.version(MANIFEST_NAME)
        documents = _documents(store)
        pages = _pages(documents)
        evidence = _reports(store, policy, progress)
        evidence += read_archive(archive, progress.warn) if archive else []
        wheels: dict[str, Wheel] = {}
        names: dict[str, str] = {}
        for path in sorted(path for path in store.paths(f"{FILES}/") if path.endswith(".whl")):
            name = path.removeprefix(f"{FILES}/")
            with store.local_copy(path) as file:
                facts = read_wheel(file, filename=name)
            listed = pages.get(name)
            if listed is not None and listed.sha256 != facts.sha256:
                raise CorruptWheel(
                    f"{store.at(path)}: its sha256 is not {listed.sha256[:12]}…, as the pages say"
                )
            faults = find_faults(facts, context.audits.get(name, ()), names)
            names[facts.sha256] = name
            uploaded = listed.upload_time if listed else timestamp(now)
            build = summarise_build(facts)
            wheel = describe(facts, build, context, old=None, now=uploaded, faults=faults)
            wheel = wheel.model_copy(update={"yanked": listed.yanked if listed else None})
            ours = [found for found in evidence if found.wheel_sha256 == facts.sha256]
            wheels[name] = with_evidence(wheel, ours, facts, policy)
        for name in sorted(wheels, key=lambda name: wheels[name].is_emulated):  # after those that prove it
            wheels[name] = _placed(wheels[name], pages.get(name), wheels.values(), progress)
        wanted: dict[str, Channel | None] = {
            name: listed.channel if listed.channel == "candidate" else None for name, listed in pages.items()
        }
        wheels = followed(wheels, wanted)
        for name in sorted(pages.keys() - wheels.keys()):
            progress.warn(f"{name}: the pages list it, but the file is gone; restore it and publish it again")
        manifest = Manifest(
            base_url=context.base_url or None,
            cadence_days=context.cadence_days,
            exclusions=tuple(context.exclusions or ()),
            statuses=_statuses(documents),
            snapshots=_snapshots(store),
            supports=named_supports(wheels.values(), context.support.values()),
            wheels=sort_wheels(wheels.values()),
        )
        write_site(store, manifest, replaced)
    if context.base_url is None:
        progress.warn("the address of the site is not known; give it with `publish --base-url`")
    return manifest


def _require_broken(store: Store) -> None:
    try:
        stored_manifest(store)
    except CorruptManifest:
        return
    raise FarmError(f"{store.name}: its manifest can be read; there is nothing to rebuild")


def _documents(store: Store) -> list[tuple[Channel, Any]]:
    """Return the JSON pages of each channel, without those that are damaged."""
    found: list[tuple[Channel, Any]] = []
    for channel in reversed(CHANNELS):  # candidate lists every wheel, and stable then overrides it
        for path in sorted(store.paths(f"{channel}/simple/v1+json/")):
            page = store.read(path) if path.endswith("/index.json") else None
            if page is not None:
                with suppress(ValueError, RecursionError):
                    found.append((channel, json.loads(page.data)))
    return found


def _pages(documents: Iterable[tuple[Channel, Any]]) -> dict[str, _Listed]:
    """Return what the JSON pages list, by file name; a damaged page lists nothing."""
    found: dict[str, _Listed] = {}
    for channel, document in documents:
        with suppress(ValueError, KeyError, TypeError):
            found |= {entry["filename"]: _listed(entry, channel) for entry in document["files"]}
    return found


def _statuses(documents: Iterable[tuple[Channel, Any]]) -> dict[str, ProjectStatus]:
    """Return the status of each project that is not active; ``candidate`` lists every project."""
    found = {}
    for channel, document in documents:
        if channel == "candidate":
            with suppress(ValueError, KeyError, TypeError):
                status = ProjectStatus.model_validate(document["project-status"])
                if status != ACTIVE:
                    found[document["name"]] = status
    return found


def _snapshots(store: Store) -> tuple[Snapshot, ...]:
    """Return the snapshots whose pages are whole: the last one that was written is the flat page."""
    pages: dict[str, dict[str, str]] = {}
    for path in sorted(store.paths()):
        date = snapshot_date(path)
        found = store.read(path) if date and not path.endswith("/") else None
        if date and found:
            pages.setdefault(date, {})[path] = hashlib.sha256(found.data).hexdigest()
    return tuple(
        Snapshot(date=date, pages=digests)
        for date, digests in pages.items()
        if f"{date}/index.html" in digests
    )


def _listed(entry: dict[str, Any], channel: Channel) -> _Listed:
    yanked = entry["yanked"]
    return _Listed(
        entry["hashes"]["sha256"], channel, entry["upload-time"], None if yanked is False else str(yanked)
    )


def _reports(store: Store, policy: Policy, progress: Reporter) -> list[Evidence]:
    found = []
    for path in sorted(store.paths(f"{REPORTS}/")):
        with store.local_copy(path) as file:
            evidence = _report(file, policy, progress)
        if evidence is not None:
            found.append(evidence)
    return found


def _report(path: Path, policy: Policy, progress: Reporter) -> Evidence | None:
    try:
        return read_evidence(path, policy)
    except (CorruptReport, RacesAlone, BadSignature) as error:
        progress.warn(f"{error}; the report counts for no wheel")
        return None


def _placed(wheel: Wheel, listed: _Listed | None, others: Collection[Wheel], progress: Reporter) -> Wheel:
    """Return the wheel on the channel of the pages if its proofs allow it; warn of what is not known."""
    if listed is None:
        progress.warn(
            f"{wheel.filename}: no page lists it: taken as uploaded {wheel.upload_time}, and as not yanked"
        )
    if wheel.is_compat:
        return wheel
    was_stable = listed is not None and listed.channel == "stable"
    is_proven = wheel.is_validated or (wheel.is_emulated and bool(wheel.kernels_proven_by(others)))
    if was_stable and not wheel.faults and is_proven:
        wheel = wheel.model_copy(update={"channel": "stable", "channel_reason": ""})
    placed = channelled(wheel, None if was_stable else "candidate", others)
    if was_stable and placed.channel != "stable":
        progress.warn(f"{wheel.filename}: was stable, is a candidate now: {placed.channel_reason}")
    return placed
