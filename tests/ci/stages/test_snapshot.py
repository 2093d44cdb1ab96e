"""Frozen snapshots of the index, and the status of a project."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import requests

from ci.errors import FarmError, SnapshotExists, UnfitWheel, UnsafeSite
from ci.stages.listing import Context
from ci.stages.publish import publish, yank
from ci.stages.rebuild import rebuild
from ci.stages.snapshot import snapshot
from ci.stages.status import set_status
from ci.stages.verify.served_site import check_served, check_store
from ci.store.serve import served
from index_site.manifest import Manifest, read_manifest
from tests.quiet import Quiet
from tests.site_kit import LATER, NOW, TRUSTING, flash_wheel, report

if TYPE_CHECKING:
    from pathlib import Path

DATE = "2026-12-07"
HTML = "candidate/simple/flash-attn3/index.html"
JSON = "candidate/simple/v1+json/flash-attn3/index.json"


def put(site: Path, version: str, *, stable: bool = True) -> Manifest:
    wheel = flash_wheel(site.parent / "dist", version=version)
    reports = [report(site.parent / f"{version}.json", wheel)] if stable else []
    return publish(wheels=[wheel], reports=reports, site=site, now=NOW, progress=Quiet(), policy=TRUSTING)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with a stable wheel and a newer candidate."""
    put(tmp_path / "site", "0.1.0")
    put(tmp_path / "site", "0.2.0", stable=False)
    return tmp_path / "site"


def frozen(site: Path, date: str = DATE) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in (site / date).rglob("*.*")}


def freeze(site: Path, date: str = DATE) -> Manifest:
    return snapshot(site=site, date=date, progress=Quiet())


# ---- snapshots


def test_a_snapshot_has_the_three_views_of_stable(site: Path) -> None:
    manifest = freeze(site)
    assert [item.date for item in manifest.snapshots] == [DATE]
    pages = frozen(site)
    assert set(pages) == {
        f"{DATE}/{page}"
        for page in (
            "index.html",
            "simple/index.html",
            "simple/flash-attn3/index.html",
            "simple/v1+json/index.json",
            "simple/v1+json/flash-attn3/index.json",
        )
    }
    for page in ("simple/flash-attn3/index.html", "simple/v1+json/flash-attn3/index.json"):
        assert pages[f"{DATE}/{page}"] == (site / "stable" / page).read_bytes()
    assert b"0.2.0" not in b"".join(pages.values())


def test_a_snapshot_never_changes_whatever_comes_later(site: Path) -> None:
    freeze(site)
    before = frozen(site)
    put(site, "0.3.0")
    yank(site=site, patterns=["*-0.1.0-*"], reason="wrong", progress=Quiet())
    set_status(site=site, project="flash-attn3", status="archived", reason="done", progress=Quiet())
    freeze(site, "2026-12-21")
    assert frozen(site) == before
    later = frozen(site, "2026-12-21")
    assert b'data-yanked="wrong"' in later["2026-12-21/index.html"]
    assert b"0.3.0" in later["2026-12-21/index.html"]
    with served(site) as base:
        checks = (*check_served(base, read_manifest(site)), check_store(site, read_manifest(site)))
    assert [check for check in checks if not check.ok] == []


def test_the_same_snapshot_again_is_none_and_another_of_that_date_is_refused(site: Path) -> None:
    before = freeze(site)
    assert freeze(site) == before
    put(site, "0.3.0")
    pages = frozen(site)
    with pytest.raises(SnapshotExists, match="the snapshot 2026-12-07 holds other wheels or other facts"):
        freeze(site)
    assert frozen(site) == pages


@pytest.mark.parametrize("date", ["", "today", "2026-13-01", "2026-02-30", "20261207", "2026-12-7", "../x"])
def test_what_is_no_date_is_refused(site: Path, date: str) -> None:
    with pytest.raises(FarmError, match=r"date: should be a day such as 2026-12-07, got "):
        freeze(site, date)


def test_an_empty_stable_and_a_folder_that_is_no_site_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "site", "0.2.0", stable=False)
    with pytest.raises(FarmError, match="stable lists no wheel"):
        freeze(tmp_path / "site")
    with pytest.raises(UnsafeSite, match="siet is not a site of this farm"):
        freeze(tmp_path / "siet")
    assert not (tmp_path / "siet").exists()
    assert not (tmp_path / "site" / DATE).exists()


def test_one_wrong_byte_of_a_snapshot_is_found(site: Path) -> None:
    manifest = freeze(site)
    page = site / DATE / "simple" / "flash-attn3" / "index.html"
    page.write_bytes(page.read_bytes() + b" ")
    with served(site) as base:
        faults = [check.detail for check in check_served(base, manifest) if not check.ok]
    assert faults == [f"wrong: {DATE}/simple/flash-attn3/index.html"]


def test_a_snapshot_is_served_as_immutable(site: Path) -> None:
    freeze(site)
    with served(site) as base:
        answer = requests.get(f"{base}{DATE}/simple/v1+json/flash-attn3/", timeout=10)
    assert answer.headers["Cache-Control"] == "max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "application/vnd.pypi.simple.v1+json"
    rules = (site / "_headers").read_text()
    assert f"/{DATE}/*\n  Cache-Control: max-age=31536000, immutable\n" in rules
    assert f"/{DATE}/simple/v1+json/*\n  Content-Type: application/vnd.pypi.simple.v1+json\n" in rules


@pytest.mark.slow
@pytest.mark.parametrize("address", ["simple/", "simple/v1+json/", "index.html"])
def test_pip_installs_from_a_snapshot_what_was_stable_then(site: Path, tmp_path: Path, address: str) -> None:
    freeze(site)
    put(site, "0.3.0")
    with served(site) as base:
        links = ["--no-index", "--find-links"] if address == "index.html" else ["--index-url"]
        command = [sys.executable, "-m", "pip", "--isolated", "install", "-q", "--no-deps", "--no-cache-dir"]
        target = ["--target", str(tmp_path / "packages")]
        subprocess.run([*command, *target, *links, f"{base}{DATE}/{address}", "flash-attn3"], check=True)
    (installed,) = (tmp_path / "packages").glob("*.dist-info")
    assert installed.name == "flash_attn3-0.1.0.dist-info"


def test_a_rebuild_finds_snapshots_and_statuses(site: Path) -> None:
    freeze(site)
    freeze(site, "2026-12-21")
    set_status(site=site, project="flash-attn3", status="deprecated", reason="see <b>", progress=Quiet())
    before = (site / "manifest.json").read_bytes()
    (site / "manifest.json").unlink()
    (site / "2026-12-28" / "simple").mkdir(parents=True)  # of a publisher that was killed
    (site / "2026-12-28" / "simple" / "index.html").write_text("half")
    context = Context(base_url="")
    rebuild(site=site, now=LATER, progress=Quiet(), context=context, policy=TRUSTING)
    assert (site / "manifest.json").read_bytes() == before


# ---- statuses


@pytest.mark.parametrize(
    ("status", "lists", "takes"),
    [("deprecated", True, True), ("archived", True, False), ("quarantined", False, False)],
)
def test_a_status_is_on_the_pages_and_decides_what_they_list(
    site: Path, status: Any, lists: bool, takes: bool
) -> None:
    before = (site / HTML).read_bytes()
    set_status(site=site, project="flash-attn3", status=status, reason='see "x" & <y>', progress=Quiet())
    document = json.loads((site / JSON).read_bytes())
    assert document["project-status"] == {"status": status, "reason": 'see "x" & <y>'}
    assert [entry["filename"].split("-")[1] for entry in document["files"]] == ["0.1.0", "0.2.0"] * lists
    page = (site / HTML).read_text()
    assert f'<meta name="pypi:project-status" content="{status}">' in page
    assert 'name="pypi:project-status-reason" content="see &quot;x&quot; &amp; &lt;y&gt;"' in page
    for flat in ("stable/index.html", "candidate/index.html", HTML):
        assert ("flash_attn3-0.1.0-" in (site / flat).read_text()) == lists
    refused = pytest.raises(UnfitWheel, match=f"flash-attn3 is {status}, see ")
    with nullcontext() if takes else refused:
        put(site, "0.3.0")
    assert len(put(site, "0.1.0").wheels) == 2 + takes, "a wheel that is published can be given again"
    set_status(site=site, project="flash-attn3", status="active", reason="", progress=Quiet())
    if not takes:
        assert (site / HTML).read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"project": "flash-attn"}, "no project 'flash-attn' .*the nearest is flash-attn3"),
        ({"reason": ""}, "reason: should be one line that says why it is archived, got ''"),
        ({"reason": "a\nb"}, "reason: should be one line .*got 'a"),
        ({"status": "active"}, "reason: should be empty for active, got 'x'"),
    ],
)
def test_a_wrong_status_is_refused(site: Path, wrong: dict[str, Any], message: str) -> None:
    before = (site / "manifest.json").read_bytes()
    given = {"project": "flash-attn3", "status": "archived", "reason": "x", **wrong}
    with pytest.raises(FarmError, match=message):
        set_status(site=site, progress=Quiet(), **given)
    assert (site / "manifest.json").read_bytes() == before
