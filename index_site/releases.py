"""Which wheels an installer, or a reader, is shown first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from ci.wheel.drop_in_listing import is_compat, needed_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Channel, Manifest, Wheel

# The distribution that the index exists for; the page's install lines are about it.
PROJECT = "flash-attn3"
_SHOWN_CANDIDATES = 12


def newest_release(wheels: Sequence[Wheel]) -> tuple[Wheel, ...]:
    """Return the wheels of the version that an installer picks by itself: the newest that is not yanked.

    Pre-releases count only where there is nothing else, as for installers. Empty if every wheel is yanked.
    """
    offered = [wheel for wheel in wheels if wheel.yanked is None]
    versions = {wheel.version: Version(wheel.version) for wheel in offered}
    final = [version for version in versions.values() if not version.is_prerelease]
    newest = max(final or versions.values(), default=None)
    return tuple(wheel for wheel in offered if versions[wheel.version] == newest)


def stable_release(manifest: Manifest) -> tuple[Wheel, ...]:
    """Return the newest stable release of the project; empty if there is none."""
    return newest_release([w for w in manifest.wheels if w.project == PROJECT and w.channel == "stable"])


def offered_release(manifest: Manifest) -> tuple[Wheel, ...]:
    """Return the release whose install lines are shown: the stable one, or for want of one a candidate."""
    return stable_release(manifest) or newest_release([w for w in manifest.wheels if w.project == PROJECT])


def has_drop_in(manifest: Manifest, channel: Channel, release: Sequence[Wheel]) -> bool:
    """Say whether a channel has a compatibility wheel for a release of its."""
    return any(
        is_compat(wheel) and wheel.yanked is None and needed_by(wheel, release)
        for wheel in manifest.on_channel(channel)
    )


def current_candidates(manifest: Manifest, stable: Sequence[Wheel]) -> tuple[Wheel, ...]:
    """Return the newest candidates that the stable release has not overtaken, newest first."""
    floor = Version(stable[0].version) if stable else None
    waiting = [
        wheel
        for wheel in manifest.wheels
        if wheel.channel == "candidate" and (floor is None or Version(wheel.version) >= floor)
    ]
    return tuple(waiting[::-1][:_SHOWN_CANDIDATES])
