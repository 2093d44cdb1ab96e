"""The publish stage: adds wheels and validation reports to a site that pip and uv install from.

The order of writing is wheels and sidecars, reports, manifest, project pages, root pages.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ci.errors import FarmError, ReportMismatch, UnfitWheel, UnknownWheel, WheelConflict
from ci.names import matching, nearest
from ci.output import is_one_line
from ci.proof.evidence import Evidence, Policy, read_archive, read_evidence
from ci.stages.admission import find_faults
from ci.stages.listing import HELD_BACK, Context, channelled, describe, summarise_build, with_evidence
from ci.stages.revise import revise
from ci.store.folder import as_store
from ci.wheel.compat_listing import followed
from ci.wheel.read import WheelFile, read_wheel
from index_site.hosting import FILES
from index_site.manifest import (
    Build,
    Channel,
    Manifest,
    Wheel,
    named_supports,
    sort_wheels,
    timestamp,
    without_collector,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter
    from ci.store.store import Store

_STRICT = Policy()
_SHOWN_WHEELS = 20
"""More changed wheels are counted, not listed."""


def publish(
    *,
    wheels: Sequence[Path],
    reports: Sequence[Path],
    site: Store | Path,
    now: datetime,
    progress: Reporter,
    archive: Path | None = None,
    channel: Channel | None = None,
    context: Context | None = None,
    policy: Policy = _STRICT,
    force: bool = False,
) -> Manifest:
    """Add wheels to a site, created if it is missing, and return its new manifest.

    A published file is never changed or removed. Giving the same wheel again, for instance with more reports,
    is allowed.

    Args:
        wheels: the wheels to add. A wheel goes to ``stable`` if a report with its sha256 counts by the policy
            and none failed, else to ``candidate``. By an emulation report it goes there only with the kernel
            pack of a stable wheel of its version that a GPU validated. A compatibility wheel goes to the
            channel of the wheel it requires.
        reports: of wheels given here or published before.
        site: the site, or the folder of one.
        now: the upload time of new wheels.
        progress: receives the channel of each changed wheel, with the reason.
        archive: a folder of reports (``*.json``, also in folders of it) of the tree, which vouches for them;
            those of other wheels are ignored.
        channel: ``candidate`` keeps the wheels off ``stable`` even if they passed; ``stable`` raises for a
            wheel that may not go there.
        context: see :class:`Context`.
        policy: what a report needs to count.
        force: take wheels with faults (:mod:`ci.stages.admission`) as well, to ``candidate`` for good.

    Raises:
        UnsafeSite: the folder must not be written to.
        CorruptManifest: the site's manifest cannot be read, or lacks a wheel that the site's pages list.
        CorruptWheel: a wheel is incomplete, or contradicts its file name.
        WheelConflict: a wheel of that name with other bytes is published already, or one was removed.
        UnfitWheel: a wheel has a fault, or its project takes no new ones.
        CorruptReport: a report cannot be read.
        RacesAlone: a report holds races only.
        BadSignature: a report is signed by a key that the policy does not list, or wrongly.
        ReportMismatch: a report has the sha256 of no wheel here, or a wheel may not go to ``stable``.
        DiskFull: there is no room; everything published before is intact.
        StoreConflict, StoreFailed: another publisher is in the way, or the store fails.
    """
    context = context or Context()
    given = [read_evidence(path, policy) for path in reports]
    kept = read_archive(archive, progress.warn) if archive else []
    store = as_store(site)
    with store.writing(create=bool(wheels), report=progress.say) as staging, without_collector():
        incoming = _checked(wheels, staging)
        addition = _Addition(store, incoming, (*given, *kept), given, now, channel, context, policy, force)
        manifest = revise(store, addition.to)
    _report(addition.changed, progress)
    return manifest


@dataclass
class _Addition:
    """Checked wheels and reports, which :meth:`to` adds to a manifest and to the store."""

    store: Store
    incoming: Mapping[str, _Incoming]
    evidence: Sequence[Evidence]
    """Every report: those given and those of the tree."""
    given: Sequence[Evidence]
    now: datetime
    channel: Channel | None
    context: Context
    policy: Policy
    force: bool
    changed: Sequence[Wheel] = ()
    """The wheels that the last addition changed, sorted by file name."""

    def to(self, before: Manifest) -> Manifest:
        """Return a manifest with the wheels and reports, after storing their files."""
        old = {wheel.filename: wheel for wheel in before.wheels}
        _require_same_bytes(self.incoming, old)
        _require_not_removed(self.incoming, before)
        _require_open(before, [item.facts for name, item in self.incoming.items() if name not in old])
        new = self._described(before, old)
        held = {**old, **new}
        digests = {wheel.sha256 for wheel in held.values()}
        _require_known(self.given, digests)
        evidence = [found for found in self.evidence if found.wheel_sha256 in digests]
        proven = {found.wheel_sha256 for found in evidence}
        judged = {name: wheel for name, wheel in held.items() if wheel.sha256 in proven}
        after = held | {name: self._judged(wheel, evidence) for name, wheel in judged.items()}
        changed = [name for name in after if name in new or after[name].reports != held[name].reports]
        after |= self._channelled(after, changed, new)
        after = followed(after, dict.fromkeys(new, self.channel))
        self._store_files(evidence)
        # The same record is no change; to compare two takes long.
        replaced = (name for name, wheel in after.items() if wheel is not old.get(name))
        self.changed = [after[name] for name in sorted(replaced) if name in new or after[name] != old[name]]
        context, known = self.context, (*before.supports.values(), *self.context.support.values())
        return Manifest(
            base_url=before.base_url if context.base_url is None else _checked_url(context.base_url),
            cadence_days=context.cadence_days or before.cadence_days,
            exclusions=before.exclusions if context.exclusions is None else tuple(context.exclusions),
            statuses=before.statuses,
            snapshots=before.snapshots,
            removed=before.removed,
            supports=named_supports(after.values(), known),
            wheels=sort_wheels(after.values()),
        )

    def _channelled(
        self, wheels: Mapping[str, Wheel], changed: Sequence[str], new: Mapping[str, Wheel]
    ) -> dict[str, Wheel]:
        """Return the changed wheels on their channels, and the emulated ones with the kernels of these."""
        found = {
            name: channelled(wheels[name], self.channel if name in new else None)
            for name in changed
            if not wheels[name].is_compat and not wheels[name].is_emulated
        }
        others = {**wheels, **found}.values()
        for name, wheel in wheels.items():
            if not wheel.is_emulated:
                continue
            if name in changed or wheel.with_these_kernels_among(found.values()):
                is_held = wheel.channel_reason == HELD_BACK
                wanted = self.channel if name in new else "candidate" if is_held else None
                found[name] = channelled(wheel, wanted, others)
        return found

    def _described(self, before: Manifest, old: Mapping[str, Wheel]) -> dict[str, Wheel]:
        """Return the record of each wheel that is added, without what its reports prove."""
        facts = [item.facts for item in self.incoming.values()]
        faults = _faults(facts, before, self.context, force=self.force)
        return {
            name: describe(
                item.facts,
                item.build,
                self.context,
                old=old.get(name),
                now=timestamp(self.now),
                faults=faults[name],
            )
            for name, item in self.incoming.items()
        }

    def _judged(self, wheel: Wheel, evidence: Sequence[Evidence]) -> Wheel:
        """Return a wheel with what reports of its bytes show; the last of equal ones counts."""
        item = self.incoming.get(wheel.filename)
        known = () if item else [report.path for report in wheel.reports if report.voucher]
        reports = [found for found in evidence if found.wheel_sha256 == wheel.sha256]
        ours = [found for found in reports if found.path not in known]
        if not ours:
            return wheel
        if item:
            return with_evidence(wheel, ours, item.whole_facts(), self.policy)
        with self.store.local_copy(f"{FILES}/{wheel.filename}") as file:
            return with_evidence(wheel, ours, read_wheel(file, filename=wheel.filename), self.policy)

    def _store_files(self, evidence: Sequence[Evidence]) -> None:
        for name, item in self.incoming.items():
            if item.copy.exists():  # a store may have moved it away
                self.store.put(f"{FILES}/{name}", item.copy)
            self.store.put(f"{FILES}/{name}.metadata", item.facts.metadata)
        for found in evidence:
            self.store.put(found.path, found.raw)


def _report(changed: Sequence[Wheel], progress: Reporter) -> None:
    """Say what became of each wheel, or of many by how many share it."""
    if len(changed) <= _SHOWN_WHEELS:
        for wheel in changed:
            progress.say(f"{wheel.filename}: {_listing(wheel)}")
        return
    for listing, count in Counter(map(_listing, changed)).items():
        progress.say(f"{count} wheels: {listing}")


def _faults(
    incoming: Sequence[WheelFile], before: Manifest, context: Context, *, force: bool
) -> dict[str, tuple[str, ...]]:
    """Return the faults of each wheel; raise if there are any and they are not forced."""
    names = {facts.sha256: facts.filename for facts in reversed(incoming)}
    names |= {wheel.sha256: wheel.filename for wheel in before.wheels}
    found = {
        facts.filename: find_faults(facts, context.audits.get(facts.filename, ()), names)
        for facts in incoming
    }
    unfit = [f"{name}: {'; '.join(faults)}" for name, faults in found.items() if faults]
    if unfit and not force:
        more = f" (and {len(unfit) - 1} wheels more)" if len(unfit) > 1 else ""
        raise UnfitWheel(f"{unfit[0]}{more}; `--force` publishes it to candidate, never to stable")
    return found


def _listing(wheel: Wheel) -> str:
    if wheel.yanked is not None:
        return f"{wheel.channel}, yanked: {wheel.yanked}"
    return wheel.channel + (f", since {wheel.channel_reason}" if wheel.channel_reason else "")


def yank(*, site: Store | Path, patterns: Sequence[str], reason: str | None, progress: Reporter) -> Manifest:
    """Yank published wheels: installers no longer select them, but install them where they are pinned.

    A wheel that is yanked already keeps its reason.

    Args:
        site: the site, or the folder of one.
        patterns: shell patterns on file names.
        reason: the text that installers show, one line; None undoes a yank.
        progress: receives what became of each wheel that a pattern matches.

    Raises:
        FarmError: the reason is empty, or holds more than one line or a control character.
        UnknownWheel: a pattern matches nothing.
        UnsafeSite, CorruptManifest, DiskFull, StoreConflict, StoreFailed: as for :func:`publish`.
    """
    if reason is not None and not is_one_line(reason):
        raise FarmError(f"reason: should be one line of text that says what is wrong, got {reason!r}")
    store = as_store(site)
    said: list[str] = []

    def change(before: Manifest) -> Manifest:
        said.clear()
        chosen = _matching(patterns, [wheel.filename for wheel in before.wheels])
        wheels = {w.filename: _yanked(w, reason, said) if w.filename in chosen else w for w in before.wheels}
        return before.model_copy(update={"wheels": tuple(followed(wheels, {}).values())})

    with store.writing(create=False, report=progress.say), without_collector():
        manifest = revise(store, change)
    for text in said:
        progress.say(text)
    return manifest


def _matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that match a pattern; raise if a pattern matches none."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = matching(names, pattern)
        if not found:
            raise UnknownWheel(f"no published wheel matches {pattern!r}; {nearest(pattern, names)}")
        chosen.update(found)
    return chosen


def _yanked(wheel: Wheel, reason: str | None, said: list[str]) -> Wheel:
    if (wheel.yanked is None) == (reason is None):
        state = "is not yanked" if reason is None else f"was yanked before: {wheel.yanked}"
        said.append(f"{wheel.filename}: {state}")
        return wheel
    said.append(f"{wheel.filename}: " + ("no longer yanked" if reason is None else f"yanked: {reason}"))
    return wheel.model_copy(update={"yanked": reason})


@dataclass(frozen=True)
class _Incoming:
    """A checked wheel, and its copy in the staging folder of the store, which becomes the published file.

    Of its ``build.json`` only the summary is kept: thousands of whole ones would fill the memory.
    """

    facts: WheelFile
    build: Build | None
    copy: Path

    def whole_facts(self) -> WheelFile:
        """Read the wheel once more, with its ``build.json``."""
        return read_wheel(self.copy, filename=self.facts.filename)


def _checked(wheels: Sequence[Path], staging: Path) -> dict[str, _Incoming]:
    """Copy wheels into a folder and check the copies, so that exactly the checked bytes are served.

    Returns:
        The wheels by file name.
    """
    incoming: dict[str, _Incoming] = {}
    for number, path in enumerate(wheels):
        copy = staging / str(number)
        try:
            shutil.copyfile(path, copy)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise UnknownWheel(f"wheels: {path} cannot be read: {error.strerror}") from error
        facts = read_wheel(copy, filename=path.name)
        if path.name in incoming:
            _require_same(facts, incoming[path.name].facts.sha256)
        incoming[path.name] = _Incoming(replace(facts, build=None), summarise_build(facts), copy)
    return incoming


def _require_same_bytes(incoming: Mapping[str, _Incoming], published: Mapping[str, Wheel]) -> None:
    for name, item in incoming.items():
        if name in published:
            _require_same(item.facts, published[name].sha256)


def _require_not_removed(incoming: Mapping[str, _Incoming], before: Manifest) -> None:
    for wheel in before.removed:
        if wheel.filename in incoming:
            raise WheelConflict(
                f"{wheel.filename}: was removed from the index, since {wheel.reason}; a name is never used "
                "again: build a new version"
            )


def _require_open(before: Manifest, added: Sequence[WheelFile]) -> None:
    for facts in added:
        status = before.status_of(facts.project)
        if not status.takes_files:
            raise UnfitWheel(
                f"{facts.filename}: {facts.project} is {status.status}, {status.reason}; it takes new wheels "
                f"after `farm status {facts.project} active`"
            )


def _require_same(facts: WheelFile, sha256: str) -> None:
    if facts.sha256 != sha256:
        raise WheelConflict(
            f"{facts.filename}: has sha256 {facts.sha256[:12]}…, but the wheel of that name has "
            f"{sha256[:12]}…; a published wheel never changes: build a new version"
        )


def _require_known(evidence: Sequence[Evidence], digests: AbstractSet[str]) -> None:
    for found in evidence:
        if found.wheel_sha256 not in digests:
            raise ReportMismatch(
                f"{found.source}: is a report of {found.report.wheel_filename} with sha256 "
                f"{found.wheel_sha256[:12]}…, which is neither among the wheels given nor published"
            )


def _checked_url(text: str) -> str | None:
    """Return the address with a final slash, or None for an empty text."""
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise FarmError(f"base_url: should be the http or https address of a folder, got {text!r}")
    return text.rstrip("/") + "/"
