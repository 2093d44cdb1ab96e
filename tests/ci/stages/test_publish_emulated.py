"""A wheel for a platform of which no GPU is ours: stable by an emulation, and kernels of a proven wheel."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import BadSignature, CorruptReport, ReportMismatch
from ci.gpu_side.report_file import write_report
from ci.project import ROOT
from ci.proof.emulation import read_emulation
from ci.proof.evidence import EmulatedRun, Policy, read_archive
from ci.proof.report import read_report
from ci.proof.signature import new_key, sign_report
from ci.stages.coverage import context_of
from ci.stages.listing import Context
from ci.stages.publish import publish, yank
from ci.stages.rebuild import rebuild
from ci.stages.verify.served_site import check_store
from ci.wheel.read import read_wheel
from index_site.manifest import read_manifest
from matrix.model import read_matrix
from matrix.planner import plan
from tests.quiet import Quiet
from tests.site_kit import LATER, NOW, emulation_report, flash_wheel, report

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Manifest, Wheel

MATRIX = read_matrix()
TAG = "manylinux_2_28_aarch64"
POLICY = Policy(trust_unsigned=True, emulated=frozenset({TAG}))
KERNELS, OTHER_KERNELS = b"machine code", b"other machine code"


@dataclass(frozen=True)
class Release:
    """A site, and a release for it: two wheels with the same kernels, and the report of each.

    Attributes:
        folder: for what a test adds.
        x86: the wheel for a platform that has a GPU.
        arm: the one for a platform that has none.
    """

    folder: Path
    site: Path
    x86: Path
    arm: Path
    validation: Path
    emulation: Path

    @property
    def reports(self) -> tuple[Path, Path]:
        """Both."""
        return self.validation, self.emulation


@pytest.fixture
def release(tmp_path: Path) -> Release:
    x86 = flash_wheel(tmp_path / "dist", pack=KERNELS)
    arm = flash_wheel(tmp_path / "dist", platform_tag=TAG, note="for ARM", pack=KERNELS)
    validation = report(tmp_path / "validation.json", x86)
    emulation = emulation_report(tmp_path / "emulation.json", arm)
    return Release(tmp_path, tmp_path / "site", x86, arm, validation, emulation)


def put(site: Path, *wheels: Path, reports: tuple[Path, ...] = (), **options: Any) -> dict[str, Wheel]:
    """Publish, and return the records: ``x86`` and ``arm``, as far as they are there."""
    given: dict[str, Any] = {"policy": POLICY, **options}
    manifest = publish(wheels=wheels, reports=reports, site=site, now=NOW, progress=Quiet(), **given)
    return by_platform(manifest)


def by_platform(manifest: Manifest) -> dict[str, Wheel]:
    return {"arm" if wheel.filename.endswith(f"{TAG}.whl") else "x86": wheel for wheel in manifest.wheels}


def test_it_goes_to_stable_and_the_page_says_how_far_the_proof_goes(release: Release) -> None:
    context = context_of(MATRIX, plan(MATRIX), {})
    found = put(release.site, release.arm, release.x86, reports=release.reports, context=context)
    assert {wheel.channel for wheel in found.values()} == {"stable"}
    assert release.arm.name in (release.site / "stable" / "index.html").read_text()
    (run,) = found["arm"].emulations
    assert (release.site / run.path).read_bytes() == release.emulation.read_bytes()
    assert check_store(release.site, read_manifest(release.site)).ok
    text = unescape(re.sub(r"<[^>]+>", " ", (release.site / "index.html").read_text()))
    assert (
        "emulated: no linux_aarch64 machine with a GPU has validated this file; its kernels are, byte for "
        "byte, those of the wheel for linux_x86_64, which ran on NVIDIA H200, and its host part passed 5 "
        "checks under qemu-aarch64 version 7.2.22"
    ) in text
    assert "validated: exactly this file ran on NVIDIA H200" in text
    assert re.search(r"Passed under emulation\s*, qemu-aarch64 version 7.2.22, aarch64, Python 3.11.2", text)


def test_the_order_of_wheels_and_reports_does_not_matter(release: Release) -> None:
    alone = put(release.site, release.arm, reports=(release.emulation,))["arm"]
    pack = read_wheel(release.arm).pack_sha256
    assert pack is not None
    unproven = "its host part passed under emulation, but no GPU has proven its kernels"
    assert alone.channel == "candidate"
    assert alone.channel_reason == (
        f"{unproven}: no other wheel of 0.1.0 has its kernel pack, sha256 {pack[:12]}…"
    )
    assert put(release.site, release.x86)["arm"].channel_reason == (
        f"{unproven}, those of {release.x86.name}, which is not stable"
    )
    found = put(release.site, reports=(release.validation,))
    assert {name: wheel.channel for name, wheel in found.items()} == {"x86": "stable", "arm": "stable"}


@pytest.mark.parametrize(("version", "pack"), [("0.1.0", OTHER_KERNELS), ("0.1.0", None), ("0.2.0", KERNELS)])
def test_other_kernels_or_those_of_another_release_are_no_proof(
    release: Release, version: str, pack: bytes | None
) -> None:
    wheel = flash_wheel(release.folder / "other", version=version, platform_tag=TAG, pack=pack)
    run = emulation_report(release.folder / "other.json", wheel)
    found = put(release.site, release.x86, wheel, reports=(release.validation, run))
    assert {name: one.channel for name, one in found.items()} == {"x86": "stable", "arm": "candidate"}
    held = "no other wheel of" if pack else "it has no kernel pack"
    assert f"no GPU has proven its kernels: {held}" in found["arm"].channel_reason
    with pytest.raises(ReportMismatch, match=rf"{wheel.name}: cannot go to stable: .*no GPU has proven"):
        put(release.site, wheel, channel="stable")


def test_a_report_of_another_wheel_is_refused_by_name(release: Release) -> None:
    put(release.site, release.x86, reports=(release.validation,))
    other = flash_wheel(release.folder / "other", platform_tag=TAG, note="another build", pack=KERNELS)
    run = emulation_report(release.folder / "of_another.json", other)
    digest = read_emulation(run).wheel_sha256[:12]
    refusal = rf"of_another\.json: is a report of {other.name} with sha256 {digest}…, which is neither"
    with pytest.raises(ReportMismatch, match=refusal):
        put(release.site, release.arm, reports=(run,))
    assert not (release.site / "files" / release.arm.name).exists()


def test_a_failed_check_keeps_the_wheel_off_stable_and_is_named(release: Release) -> None:
    failed = emulation_report(release.folder / "failed.json", release.arm, failure="AssertionError: 3 != 4")
    found = put(release.site, release.x86, release.arm, reports=(release.validation, failed))["arm"]
    assert found.channel == "candidate"
    assert found.channel_reason == (
        "it failed under emulation by qemu-aarch64 version 7.2.22, torch 2.9.1+cpu: "
        "launch_carries_the_problem: AssertionError: 3 != 4"
    )
    with pytest.raises(ReportMismatch, match=r"cannot go to stable: it failed under emulation"):
        put(release.site, release.arm, channel="stable")


def test_a_later_failure_yanks_it(release: Release) -> None:
    put(release.site, release.x86, release.arm, reports=release.reports)
    failed = emulation_report(release.folder / "failed.json", release.arm, failure="no")
    found = put(release.site, reports=(failed,))
    assert found["x86"].yanked is None
    assert (found["arm"].yanked or "").endswith("launch_carries_the_problem: no")


def test_a_failure_of_its_kernels_on_a_gpu_yanks_both(release: Release) -> None:
    put(release.site, release.x86, release.arm, reports=release.reports)
    failed = report(release.folder / "failed.json", release.x86, failures=("wrong",), gpu="NVIDIA H100")
    found = put(release.site, reports=(failed,))
    assert "it failed validation on NVIDIA H100" in (found["x86"].yanked or "")
    reason = found["arm"].yanked or ""
    assert reason.startswith(f"its kernels failed validation, in {release.x86.name}, on NVIDIA H100")
    assert reason.endswith("mha_d128_s4097: wrong")


def test_a_failure_on_a_gpu_of_the_platform_yanks_it_alone(release: Release) -> None:
    put(release.site, release.x86, release.arm, reports=release.reports)
    failed = report(release.folder / "failed.json", release.arm, failures=("wrong",), gpu="NVIDIA GH200")
    found = put(release.site, reports=(failed,))
    assert found["x86"].yanked is None
    assert "it failed validation on NVIDIA GH200" in (found["arm"].yanked or "")


def test_a_gpu_of_the_platform_proves_it_without_another_wheel(release: Release) -> None:
    own = report(release.folder / "own.json", release.arm, gpu="NVIDIA GH200")
    assert put(release.site, release.arm, reports=(own,))["arm"].channel == "stable"


def test_a_yanked_wheel_proves_no_kernels(release: Release) -> None:
    put(release.site, release.x86, reports=(release.validation,))
    yank(site=release.site, patterns=["*"], reason="wrong for sq = 0", progress=Quiet())
    found = put(release.site, release.arm, reports=(release.emulation,))["arm"]
    assert found.channel == "candidate"
    yanked = f"{release.x86.name}, which has its kernels, is yanked: wrong for sq = 0"
    assert found.channel_reason.endswith(yanked)


def test_a_wheel_that_its_publisher_holds_back_is_not_promoted_by_another(release: Release) -> None:
    put(release.site, release.x86, reports=(release.validation,))
    held = put(release.site, release.arm, reports=(release.emulation,), channel="candidate")["arm"]
    assert held.channel_reason == "it passed, and is held back by its publisher"
    again = report(release.folder / "again.json", release.x86, gpu="NVIDIA H100")
    assert put(release.site, reports=(again,))["arm"].channel == "candidate"
    assert put(release.site, release.arm)["arm"].channel == "stable"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quick": True}, "it passed a quick emulation only"),
        (
            {
                "checks": [{"section": "package", "name": "a", "seconds": 1.0, "failure": ""}],
                "checks_passed": 1,
            },
            "its emulation does not cover it: the section torch ran no check (and 3 more)",
        ),
    ],
)
def test_a_part_of_the_suite_is_no_proof(release: Release, changes: dict[str, Any], reason: str) -> None:
    run = emulation_report(release.folder / "part.json", release.arm, **changes)
    found = put(release.site, release.x86, release.arm, reports=(release.validation, run))["arm"]
    assert (found.channel, found.channel_reason) == ("candidate", reason)


def test_a_platform_that_needs_a_gpu_does_not_get_by_with_an_emulation(release: Release) -> None:
    strict = Policy(trust_unsigned=True)
    found = put(release.site, release.x86, release.arm, reports=release.reports, policy=strict)["arm"]
    assert found.channel_reason == (
        "its emulation does not cover it: a wheel for this platform needs a GPU's validation"
    )


def test_an_emulation_counts_by_the_signature_of_a_known_key(release: Release) -> None:
    key = release.folder / "farm.pem"
    policy = Policy(keys={"farm": new_key(key)}, emulated=POLICY.emulated)
    sign_report(release.validation, key)
    found = put(release.site, release.x86, release.arm, reports=release.reports, policy=policy)["arm"]
    assert found.channel_reason == (
        "it passed under emulation, but no key of matrix.toml has signed the emulation report"
    )
    sign_report(release.emulation, key)
    assert put(release.site, reports=(release.emulation,), policy=policy)["arm"].channel == "stable"
    assert "signed by farm" in (release.site / "index.html").read_text()
    write_report(release.emulation, json.loads(release.emulation.read_bytes()) | {"emulator": "another"})
    with pytest.raises(BadSignature, match=r"emulation\.json: its signature is not one of this report"):
        put(release.site, reports=(release.emulation,), policy=policy)


def test_a_lost_manifest_comes_back_with_it(release: Release) -> None:
    key = release.folder / "farm.pem"
    policy = Policy(keys={"farm": new_key(key)}, emulated=POLICY.emulated)
    for path in (release.validation, release.emulation):
        sign_report(path, key)
    put(release.site, release.x86, release.arm, reports=release.reports, policy=policy)
    yank(site=release.site, patterns=[f"*{release.x86.name}"], reason="too slow", progress=Quiet())
    raw = (release.site / "manifest.json").read_bytes()
    (release.site / "manifest.json").unlink()
    given: dict[str, Any] = {"site": release.site, "now": LATER, "policy": policy}
    given["context"] = Context(base_url="")
    rebuild(**given, progress=Quiet())
    assert (release.site / "manifest.json").read_bytes() == raw

    (release.site / "manifest.json").unlink()
    for path in (release.site / "reports").glob("*.json"):
        if json.loads(path.read_bytes()).get("gpu"):
            path.unlink()
    progress = Quiet()
    assert by_platform(rebuild(**given, progress=progress))["arm"].channel == "candidate"
    warned = "was stable, is a candidate now: its host part passed under emulation, but no GPU has proven"
    assert any(f"{release.arm.name}: {warned}" in text for text in progress.warned)


def test_each_kind_of_report_is_refused_where_the_other_is_needed(release: Release) -> None:
    with pytest.raises(
        CorruptReport, match=r"emulation\.json: should be a validation report, got an emulation"
    ):
        read_report(release.emulation)
    with pytest.raises(CorruptReport, match=r"validation\.json: not an emulation report"):
        read_emulation(release.validation)


def test_the_kept_report_of_each_such_platform_counts() -> None:
    """The tree vouches for it, all sections ran, and it is of a wheel for the platform."""
    policy = Policy.of(MATRIX, trust_unsigned=False)
    kept = [found for found in read_archive(ROOT / "validation", print) if isinstance(found, EmulatedRun)]
    tags = {row.name: f"py3-none-{row.tag}" for row in MATRIX.platform if row.proof == "emulation"}
    assert {run.report.platform for run in kept} == tags.keys()
    for run in kept:
        tag = tags[run.report.platform]
        assert run.report.wheel_filename.endswith(f"-{tag}.whl")
        assert run.emulation([tag], policy).counts
        assert run.report.checks_passed > 100
