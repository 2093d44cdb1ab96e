"""Removing candidates that are older than the matrix keeps them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ci.errors import FarmError, WheelConflict
from ci.stages.prune import prune
from ci.stages.publish import publish
from ci.stages.revise import write_site
from ci.stages.snapshot import snapshot
from ci.stages.verify.served_site import check_served, check_store
from ci.store.folder import FolderStore
from ci.store.serve import served
from index_site.manifest import Manifest, read_manifest
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MUCH_LATER = NOW + timedelta(days=200)


def put(site: Path, *versions: str, stable: Sequence[str] = (), days: int = 0) -> Manifest:
    wheels = {version: flash_wheel(site.parent / "dist", version=version) for version in versions}
    reports = [report(site.parent / f"{version}.json", wheels[version]) for version in stable]
    when = NOW + timedelta(days=days)
    return publish(
        wheels=list(wheels.values()), reports=reports, site=site, now=when, progress=Quiet(), policy=TRUSTING
    )


def pruned(site: Path) -> tuple[list[str], list[str]]:
    """Prune; return the versions that stay, and what was said."""
    progress = Quiet()
    manifest = prune(site=site, days=180, reason="too old", now=MUCH_LATER, progress=progress)
    with served(site) as base:
        checks = (*check_served(base, manifest), check_store(site, manifest))
    assert [check for check in checks if not check.ok] == []
    assert read_manifest(site) == manifest
    return [wheel.version for wheel in manifest.wheels], progress.said


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A stable wheel, an old candidate, a younger one and the newest, all older than half a year but one."""
    site = tmp_path / "site"
    put(site, "0.1.0", "0.2.0", "0.4.0", stable=["0.1.0"])
    put(site, "0.3.0", days=100)
    return site


def test_old_candidates_go_and_everything_else_stays(site: Path) -> None:
    name = flash_wheel(site.parent / "dist", version="0.2.0").name
    assert (site / "files" / name).exists()
    assert pruned(site) == (["0.1.0", "0.3.0", "0.4.0"], [f"{name}: removed, since too old"])
    assert not list((site / "files").glob("*-0.2.0-*"))
    assert name not in (site / "candidate" / "index.html").read_text()
    assert pruned(site) == (["0.1.0", "0.3.0", "0.4.0"], [])


def test_a_removed_name_is_never_used_again(site: Path) -> None:
    pruned(site)
    with pytest.raises(WheelConflict, match=r"0\.2\.0.*: was removed from the index, since too old"):
        put(site, "0.2.0")
    assert [wheel.version for wheel in put(site, "0.5.0").wheels] == ["0.1.0", "0.3.0", "0.4.0", "0.5.0"]


def test_a_wheel_of_a_snapshot_stays_even_if_it_is_a_candidate_later(site: Path) -> None:
    put(site, "0.2.0", stable=["0.2.0"])
    snapshot(site=site, date="2026-12-07", progress=Quiet())
    manifest = read_manifest(site)
    lost = [
        wheel.model_copy(update={"channel": "candidate", "channel_reason": "its voucher is lost"})
        for wheel in manifest.wheels
    ]
    store = FolderStore(site)
    with store.writing(create=False, report=Quiet().say):
        after = manifest.model_copy(update={"wheels": tuple(lost)})
        write_site(store, after, store.version("manifest.json"))
    assert pruned(site)[0] == ["0.1.0", "0.2.0", "0.3.0", "0.4.0"]


def test_a_killed_removal_is_completed_by_the_next(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.stages.revise._write_pages", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pruned(site)
    monkeypatch.undo()
    assert "-0.2.0-" in (site / "candidate" / "index.html").read_text()
    assert len(list((site / "files").glob("*-0.2.0-*"))) == 2, "a page still lists it"
    assert pruned(site)[0] == ["0.1.0", "0.3.0", "0.4.0"]
    assert not list((site / "files").glob("*-0.2.0-*"))


@pytest.mark.parametrize("reason", ["", " ", "two\nlines"])
def test_an_index_becomes_shorter_with_a_reason_only(site: Path, reason: str) -> None:
    before = (site / "manifest.json").read_bytes()
    with pytest.raises(FarmError, match="reason: should be one line that says why wheels are removed, got "):
        prune(site=site, days=180, reason=reason, now=MUCH_LATER, progress=Quiet())
    assert (site / "manifest.json").read_bytes() == before
