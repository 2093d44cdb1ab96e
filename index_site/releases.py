"""Selections of wheels: the release that installers take, and those that the page shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from index_site.manifest import parsed_versions
from index_site.projects import COMPAT_PROJECT, PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Channel, Manifest, Wheel

_SHOWN_CANDIDATES = 12


def newest_release(wheels: Sequence[Wheel]) -> tuple[Wheel, ...]:
    """Return the wheels of the version that an installer picks: the newest that is not yanked.

    Pre-releases count only if there is nothing else, as for installers. Empty if every wheel is yanked.
    """
    offered = [wheel for wheel in wheels if wheel.yanked is None]
    versions = parsed_versions(offered)
    final = [version for version in versions.values() if not version.is_prerelease]
    newest = max(final or versions.values(), default=None)
    return tuple(wheel for wheel in offered if versions[wheel.version] == newest)


def offered_release(manifest: Manifest) -> tuple[Wheel, ...]:
    """Return the release that the page offers: the newest stable one, else the newest candidate.

    Empty if there is none, or if the status of the project withholds its files.
    """
    if not manifest.status_of(PROJECT).is_offered:
        return ()
    stable = newest_release([wheel for wheel in manifest.on_channel("stable") if wheel.project == PROJECT])
    return stable or newest_release([wheel for wheel in manifest.shown if wheel.project == PROJECT])


def has_compat(manifest: Manifest, channel: Channel, release: Sequence[Wheel]) -> bool:
    """Return whether a channel lists a compatibility wheel that requires this release."""
    return manifest.status_of(COMPAT_PROJECT).is_offered and any(
        wheel.is_compat and wheel.yanked is None and wheel.required_among(release)
        for wheel in manifest.on_channel(channel)
    )


def current_candidates(manifest: Manifest, stable: Sequence[Wheel]) -> tuple[Wheel, ...]:
    """Return the newest candidates that are not older than the stable release, newest first.

    A compatibility wheel is as old as what it requires.
    """
    candidates = [wheel for wheel in manifest.shown if wheel.channel == "candidate"]
    if stable:
        floor = Version(stable[0].version)
        versions = parsed_versions(wheel for wheel in manifest.wheels if wheel.project == PROJECT)
        older = {f"{PROJECT}=={text}" for text, version in versions.items() if version < floor}
        candidates = [wheel for wheel in candidates if older.isdisjoint((wheel.pin, *wheel.requires_dist))]
    return tuple(candidates[::-1][:_SHOWN_CANDIDATES])
