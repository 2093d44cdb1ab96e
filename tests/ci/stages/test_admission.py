"""Wheels that a site refuses, and what becomes of one that its publisher forces."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ci.check import Check
from ci.errors import ReportMismatch, UnfitWheel
from ci.stages.listing import Context
from ci.stages.publish import publish
from ci.stages.verify.served_site import check_served
from ci.store.serve import served
from index_site.manifest import read_manifest
from index_site.pages import render
from tests.quiet import Quiet
from tests.site_kit import NOW, PLATFORM_TAG, TRUSTING, flash_members, flash_wheel, report, write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Manifest

NAME = f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


def put(site: Path, *wheels: Path, reports: tuple[Path, ...] = (), **options: Any) -> Manifest:
    return publish(
        wheels=wheels, reports=reports, site=site, now=NOW, progress=Quiet(), policy=TRUSTING, **options
    )


def foreign(folder: Path) -> Path:
    members = {
        name.replace("flash_attn3", "numpy"): data.replace(b"flash-attn3", b"numpy")
        for name, data in flash_members(version="9.0").items()
    }
    return write_wheel(folder, name=f"numpy-9.0-py3-none-{PLATFORM_TAG}.whl", members=members)


def pure(folder: Path) -> Path:
    members = flash_members()
    return write_wheel(folder, name="flash_attn3-0.1.0-py3-none-any.whl", members=members)


def renamed(folder: Path, name: str) -> Path:
    path = flash_wheel(folder)
    return path.rename(path.with_name(name))


def with_build_tag(folder: Path) -> Path:
    return renamed(folder, f"flash_attn3-0.1.0-1-py3-none-{PLATFORM_TAG}.whl")


def other_spelling(folder: Path) -> Path:
    return renamed(folder, f"Flash_Attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl")


def other_version_spelling(folder: Path) -> Path:
    return renamed(folder, f"flash_attn3-0.01.0-py3-none-{PLATFORM_TAG}.whl")


UNFIT = {
    foreign: "numpy-9.0-.*: it is of the project numpy; this index is for flash-attn3 and flash-attn-3",
    pure: "flash_attn3-0.1.0-py3-none-any.whl: its tag py3-none-any is one of pure Python",
    with_build_tag: "its name has the build tag 1; a rebuild is a new version",
    other_spelling: r"Flash_Attn3-.*: its name should start with flash_attn3-0\.1\.0-py3: other spellings",
    other_version_spelling: r"its name should start with flash_attn3-0\.1\.0-py3: other spellings",
}


@pytest.mark.parametrize(("make", "message"), UNFIT.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_an_unfit_wheel_is_refused_by_name_and_forced_to_candidate_alone(
    site: Path, tmp_path: Path, make: Any, message: str
) -> None:
    wheel = make(tmp_path / "dist")
    reports = (report(tmp_path / "r.json", wheel),) if make is not foreign else ()
    with pytest.raises(UnfitWheel, match=message):
        put(site, wheel, reports=reports)
    assert not (site / "files").exists()
    with pytest.raises(ReportMismatch, match="cannot go to stable: its publisher forced it"):
        put(site, wheel, reports=reports, force=True, channel="stable")
    (listed,) = put(site, wheel, reports=reports, force=True).wheels
    assert listed.channel == "candidate"
    assert listed.channel_reason.startswith("its publisher forced it: it")
    assert put(site, reports=reports).wheels[0].channel == "candidate"  # a later report changes nothing


def test_the_bytes_of_a_published_wheel_are_refused_under_another_name(site: Path, tmp_path: Path) -> None:
    wheel = flash_wheel(tmp_path / "dist")
    twin = tmp_path / NAME.replace("py3-none", "py3.py4-none")
    shutil.copyfile(wheel, twin)
    with pytest.raises(UnfitWheel, match=f"its bytes are those of {NAME}"):
        put(site, wheel, twin)
    put(site, wheel)
    with pytest.raises(UnfitWheel, match=f"its bytes are those of {NAME}"):
        put(site, twin)


def failing(wheel: Path) -> Context:
    return Context(audits={wheel.name: (Check("size", True, ""), Check("kernels", False, "1 of 154"))})


def test_a_wheel_whose_audit_failed_is_refused_with_the_check(site: Path, tmp_path: Path) -> None:
    wheel = flash_wheel(tmp_path / "dist")
    with pytest.raises(UnfitWheel, match=f"{NAME}: its audit failed: kernels: 1 of 154; `--force`"):
        put(site, wheel, context=failing(wheel))
    assert not (site / "files").exists()


def test_a_forced_wheel_whose_audit_failed_is_shown_to_nobody_and_fails_verify(
    site: Path, tmp_path: Path
) -> None:
    wheel, good = flash_wheel(tmp_path / "dist"), flash_wheel(tmp_path / "dist", version="0.0.9")
    reports = (report(tmp_path / "r.json", wheel),)
    put(site, wheel, reports=reports, context=failing(wheel), force=True)
    put(site, good)
    manifest = read_manifest(site)
    kept = next(listed for listed in manifest.wheels if listed.filename == wheel.name)
    assert (kept.channel, kept.is_shown) == ("candidate", False)
    pages = render(manifest)
    assert [path for path, page in pages.items() if wheel.name.encode() in page] == []
    assert good.name.encode() in pages["index.html"]
    with served(site) as base:
        failed = [check for check in check_served(base, manifest) if not check.ok]
    assert [(check.name, check.detail) for check in failed] == [("audits", f"wrong: {wheel.name}")]
