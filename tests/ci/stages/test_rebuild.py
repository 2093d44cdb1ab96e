"""A site whose manifest is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import CorruptWheel, FarmError, UnsafeSite
from ci.proof.evidence import Policy
from ci.proof.signature import new_key, sign_report
from ci.stages.listing import Context
from ci.stages.publish import publish, yank
from ci.stages.rebuild import rebuild
from tests.quiet import Quiet
from tests.site_kit import LATER, NOW, flash_wheel, report

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Manifest

BASE = "https://host.example/"


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(keys={"farm": new_key(tmp_path / "farm.pem")})


@pytest.fixture
def site(tmp_path: Path, policy: Policy) -> Path:
    """A stable wheel, a yanked one, one that is held back and one without a report."""
    folder = tmp_path / "site"
    wheels = [flash_wheel(tmp_path / "dist", version=f"0.{n}.0") for n in range(4)]
    reports = [report(tmp_path / f"{n}.json", wheel) for n, wheel in enumerate(wheels[:3])]
    for path in reports:
        sign_report(path, tmp_path / "farm.pem")
    put: dict[str, Any] = {"site": folder, "now": NOW, "progress": Quiet(), "policy": policy}
    publish(wheels=wheels[:2], reports=reports[:2], context=Context(base_url=BASE), **put)
    publish(wheels=wheels[2:], reports=reports[2:], channel="candidate", **put)
    yank(site=folder, patterns=["*-0.0.0-*"], reason="wrong for sq = 0", progress=Quiet())
    return folder


def again(site: Path, policy: Policy, base_url: str | None = BASE) -> tuple[Manifest, list[str]]:
    progress = Quiet()
    manifest = rebuild(
        site=site, now=LATER, progress=progress, context=Context(base_url=base_url), policy=policy
    )
    return manifest, progress.warned


def tree(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", ["lost", "cut", "empty"])
def test_every_fact_that_the_site_holds_comes_back(site: Path, policy: Policy, damage: str) -> None:
    before = tree(site)
    manifest = site / "manifest.json"
    raw = manifest.read_bytes()
    manifest.unlink()
    if damage != "lost":
        manifest.write_bytes(raw[:-100] if damage == "cut" else b"")
    _, warned = again(site, policy)
    assert warned == []
    assert {name for name, data in tree(site).items() if data != before.get(name)} == set()


def test_a_whole_manifest_is_left_alone(site: Path, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(FarmError, match="its manifest can be read; there is nothing to rebuild"):
        again(site, policy)
    with pytest.raises(UnsafeSite, match="is not a site of this farm"):
        again(tmp_path / "elsewhere", policy)
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_known_is_said_and_never_stable(site: Path, policy: Policy) -> None:
    (site / "manifest.json").unlink()
    for page in site.glob("*/simple/v1+json/*/index.json"):
        page.write_text("[]")
    manifest, warned = again(site, policy, base_url=None)
    assert {wheel.channel for wheel in manifest.wheels} == {"candidate"}
    assert len([text for text in warned if "no page lists it: taken as uploaded 2026-12-06" in text]) == 4
    assert "the address of the site is not known" in warned[-1]


def test_a_lost_voucher_takes_a_wheel_off_stable_with_a_warning(site: Path) -> None:
    (site / "manifest.json").unlink()
    manifest, warned = again(site, Policy(keys={"other": "1" * 64}))
    assert {wheel.channel for wheel in manifest.wheels} == {"candidate"}
    assert any("which release.keys of matrix.toml does not list" in text for text in warned)
    assert any("-0.1.0-" in text and "was stable, is a candidate now" in text for text in warned)


def test_a_missing_wheel_is_named_and_a_wrong_one_refused(site: Path, policy: Policy) -> None:
    (site / "manifest.json").unlink()
    gone = next((site / "files").glob("*-0.3.0-*.whl"))
    gone.unlink()
    manifest, warned = again(site, policy)
    assert len(manifest.wheels) == 3
    assert any(f"{gone.name}: the pages list it, but the file is gone" in text for text in warned)
    (site / "manifest.json").unlink()
    page = site / "candidate" / "simple" / "v1+json" / "flash-attn3" / "index.json"
    document = json.loads(page.read_text())
    document["files"][0]["hashes"]["sha256"] = "0" * 64
    page.write_text(json.dumps(document))
    for other in site.glob("stable/simple/v1+json/*/index.json"):
        other.unlink()
    with pytest.raises(CorruptWheel, match="its sha256 is not 000000000000"):
        again(site, policy)
