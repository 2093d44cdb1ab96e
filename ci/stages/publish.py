"""The publish stage: adds wheels and validation reports to a site that pip and uv install from.

The order of writing is wheels and sidecars, reports, manifest, project pages, root pages. A killed run
therefore leaves complete pages with working links, and the next run writes the pages of the new manifest.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ci.errors import FarmError, ReportMismatch, UnfitWheel, UnknownWheel, WheelConflict
from ci.files import room_in, sha256_of, write_atomically
from ci.names import matching, nearest
from ci.proof.evidence import Evidence, Policy, read_archive, read_evidence
from ci.stages.admission import find_faults
from ci.stages.listing import Context, channelled, describe, summarise_build, with_evidence
from ci.store.folder import MARKER, READABLE, held_site, open_to_readers
from ci.wheel.compat_listing import followed
from ci.wheel.read import WheelFile, read_wheel
from index_site.errors import CorruptManifest
from index_site.hosting import FILES
from index_site.manifest import (
    MANIFEST_NAME,
    Build,
    Channel,
    Manifest,
    Wheel,
    dump_manifest,
    named_supports,
    read_manifest,
    sort_wheels,
    timestamp,
    without_collector,
)
from index_site.pages import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter

_STRICT = Policy()
_SHOWN_WHEELS = 20
"""More changed wheels are counted, not listed."""
_LISTED = re.compile(r'href="\.\./files/([^"#]+)#sha256=([0-9a-f]{64})"')


def publish(
    *,
    wheels: Sequence[Path],
    reports: Sequence[Path],
    site: Path,
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
            and none failed, else to ``candidate``. A compatibility wheel goes to the channel of the wheel it
            requires.
        reports: validation reports of wheels given here or published before.
        site: the folder of the site.
        now: the upload time of new wheels.
        progress: receives the channel of each changed wheel, with the reason.
        archive: a folder of reports (``*.json``) of the tree, which vouches for them; those of other wheels
            are ignored.
        channel: ``candidate`` keeps the wheels off ``stable`` even if they passed; ``stable`` raises for a
            wheel that may not go there.
        context: see :class:`Context`.
        policy: what a report needs to count.
        force: take wheels with faults (:mod:`ci.stages.admission`) as well, to ``candidate`` for good.

    Raises:
        UnsafeSite: the folder must not be written to.
        CorruptManifest: the site's manifest cannot be read, or lacks a wheel that the site's pages list.
        CorruptWheel: a wheel is incomplete, or contradicts its file name.
        WheelConflict: a wheel of that name with other bytes is published already.
        UnfitWheel: a wheel has a fault.
        CorruptReport: a report cannot be read.
        RacesAlone: a report holds races only.
        BadSignature: a report is signed by a key that the policy does not list, or wrongly.
        ReportMismatch: a report has the sha256 of no wheel here, or a wheel may not go to ``stable``.
        DiskFull: there is no room; everything published before is intact.
    """
    context = context or Context()
    given = [read_evidence(path, policy) for path in reports]
    kept = read_archive(archive, progress.warn) if archive else []
    opened = held_site(site, create=bool(wheels), report=progress.say)
    with opened as root, room_in(root), without_collector():
        before = _published(root)
        old = {wheel.filename: wheel for wheel in before.wheels}
        with _checked(wheels, root, old) as incoming:
            faults = _faults([item.facts for item in incoming.values()], before, context, force=force)
            new = {
                name: describe(
                    item.facts,
                    item.build,
                    context,
                    old=old.get(name),
                    now=timestamp(now),
                    faults=faults[name],
                )
                for name, item in incoming.items()
            }
            held = {**old, **new}
            digests = {wheel.sha256 for wheel in held.values()}
            _require_known(given, digests)
            evidence = [found for found in (*given, *kept) if found.wheel_sha256 in digests]
            after = {
                name: _judged(wheel, evidence, incoming.get(name), root, policy)
                for name, wheel in held.items()
            }
            for name, wheel in after.items():
                if not wheel.is_compat and (name in new or wheel.proofs != held[name].proofs):
                    after[name] = channelled(wheel, channel if name in new else None)
            after = followed(after, dict.fromkeys(new, channel))
            for item in incoming.values():
                _store(item, root)
        for found in evidence:
            _write(root / found.path, found.raw)
        manifest = Manifest(
            base_url=before.base_url if context.base_url is None else _checked_url(context.base_url),
            cadence_days=context.cadence_days or before.cadence_days,
            exclusions=before.exclusions if context.exclusions is None else tuple(context.exclusions),
            supports=named_supports(after.values(), (*before.supports.values(), *context.support.values())),
            wheels=sort_wheels(after.values()),
        )
        write_site(root, manifest)
    _report([after[name] for name in sorted(after) if name in new or after[name] != old[name]], progress)
    return manifest


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


def _judged(
    wheel: Wheel, evidence: Sequence[Evidence], item: _Incoming | None, root: Path, policy: Policy
) -> Wheel:
    """Return a wheel with the proofs that the reports of its bytes give.

    Args:
        wheel: its record.
        evidence: reports of any wheels; of equal ones the last counts.
        item: the wheel; None for one that is published and not given again.
        root: the folder of the site.
        policy: what a report needs to count.
    """
    known = () if item else [proof.path for proof in wheel.proofs if proof.voucher]
    ours = [found for found in evidence if found.wheel_sha256 == wheel.sha256 and found.path not in known]
    if not ours:
        return wheel
    file = item.copy if item else root / FILES / wheel.filename
    return with_evidence(wheel, ours, read_wheel(file, filename=wheel.filename), policy)


def _listing(wheel: Wheel) -> str:
    if wheel.yanked is not None:
        return f"{wheel.channel}, yanked: {wheel.yanked}"
    return wheel.channel + (f", since {wheel.channel_reason}" if wheel.channel_reason else "")


def yank(*, site: Path, patterns: Sequence[str], reason: str | None, progress: Reporter) -> Manifest:
    """Yank published wheels: installers no longer select them, but install them where they are pinned.

    A wheel that is yanked already keeps its reason.

    Args:
        site: the folder of the site.
        patterns: shell patterns on file names.
        reason: the text that installers show, one line; None undoes a yank.
        progress: receives what became of each wheel that a pattern matches.

    Raises:
        FarmError: the reason is empty, or holds more than one line or a control character.
        UnknownWheel: a pattern matches nothing.
        UnsafeSite, CorruptManifest, DiskFull: as for :func:`publish`.
    """
    if reason is not None and not (reason.strip() and reason.isprintable()):
        raise FarmError(f"reason: should be one line of text that says what is wrong, got {reason!r}")
    with held_site(site, create=False, report=progress.say) as root, room_in(root), without_collector():
        before = _published(root)
        names = [wheel.filename for wheel in before.wheels]
        chosen: set[str] = set()
        for pattern in patterns:
            found = matching(names, pattern)
            if not found:
                raise UnknownWheel(f"no published wheel matches {pattern!r}; {nearest(pattern, names)}")
            chosen.update(found)
        wheels = {
            w.filename: _yanked(w, reason, progress) if w.filename in chosen else w for w in before.wheels
        }
        manifest = before.model_copy(update={"wheels": tuple(followed(wheels, {}).values())})
        write_site(root, manifest)
    return manifest


def _yanked(wheel: Wheel, reason: str | None, progress: Reporter) -> Wheel:
    if (wheel.yanked is None) == (reason is None):
        state = "is not yanked" if reason is None else f"was yanked before: {wheel.yanked}"
        progress.say(f"{wheel.filename}: {state}")
        return wheel
    progress.say(f"{wheel.filename}: " + ("no longer yanked" if reason is None else f"yanked: {reason}"))
    return wheel.model_copy(update={"yanked": reason})


def write_site(root: Path, manifest: Manifest) -> None:
    """Write the manifest, then each page that differs from what the manifest renders to.

    A web server can read all of it, whatever the umask of this process and of those before it.
    """
    _write(root / MANIFEST_NAME, dump_manifest(manifest))
    for path, page in render(manifest).items():
        _write(root / path, page)
    open_to_readers(root)


def _write(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data, mode=READABLE)


def _published(root: Path) -> Manifest:
    """Read the site's manifest; raise if it lacks a wheel that the site's pages list."""
    page = root / "candidate" / "index.html"
    listed = _LISTED.findall(page.read_text(encoding="utf-8")) if page.is_file() else []
    if not listed and not (root / MANIFEST_NAME).exists():
        return Manifest()
    manifest = read_manifest(root)
    known = {(wheel.filename, wheel.sha256) for wheel in manifest.wheels}
    for name, digest in listed:
        if (unquote(name), digest) not in known:
            raise CorruptManifest(
                f"{root / MANIFEST_NAME}: lacks {unquote(name)} (sha256 {digest[:12]}…), which the site's "
                "pages list; an index never shrinks: restore the newer manifest"
            )
    return manifest


@dataclass(frozen=True)
class _Incoming:
    """A checked wheel, and its copy inside the site, which becomes the published file.

    Of its ``build.json`` only the summary is kept: thousands of whole ones would fill the memory.
    """

    facts: WheelFile
    build: Build | None
    copy: Path


@contextmanager
def _checked(
    wheels: Sequence[Path], root: Path, published: Mapping[str, Wheel]
) -> Iterator[dict[str, _Incoming]]:
    """Copy wheels into the site and check the copies, so that exactly the checked bytes are served.

    Yields:
        The wheels by file name.
    """
    staging = root / MARKER / "incoming"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        incoming: dict[str, _Incoming] = {}
        for number, path in enumerate(wheels):
            copy = staging / str(number)
            try:
                shutil.copyfile(path, copy)
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                raise UnknownWheel(f"wheels: {path} cannot be read: {error.strerror}") from error
            facts = read_wheel(copy, filename=path.name)
            rival = incoming[path.name].facts if path.name in incoming else published.get(path.name)
            if rival is not None and rival.sha256 != facts.sha256:
                raise WheelConflict(
                    f"{path.name}: has sha256 {facts.sha256[:12]}…, but the wheel of that name has "
                    f"{rival.sha256[:12]}…; a published wheel never changes: build a new version"
                )
            incoming[path.name] = _Incoming(replace(facts, build=None), summarise_build(facts), copy)
        yield incoming
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _store(item: _Incoming, root: Path) -> None:
    target = root / FILES / item.facts.filename
    target.parent.mkdir(exist_ok=True)
    if not target.is_file() or sha256_of(target) != item.facts.sha256:
        with item.copy.open("rb+") as file:
            os.fsync(file.fileno())
        item.copy.chmod(READABLE)
        item.copy.replace(target)
    _write(target.with_name(f"{target.name}.metadata"), item.facts.metadata)


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
