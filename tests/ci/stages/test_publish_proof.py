"""Which reports put a wheel on stable: those that cover it, and that somebody vouches for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import BadSignature, ReportMismatch
from ci.gpu_side.report_file import write_report
from ci.proof.evidence import Policy
from ci.proof.signature import new_key, sign_report
from ci.stages.publish import publish
from tests.quiet import Quiet
from tests.site_kit import BUILD, NOW, PLATFORM_TAG, TRUSTING, flash_members, flash_wheel, report, write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Wheel


def put(site: Path, wheel: Path, policy: Policy, *reports: Path, **options: Any) -> Wheel:
    manifest = publish(
        wheels=[wheel], reports=reports, site=site, now=NOW, progress=Quiet(), policy=policy, **options
    )
    (listed,) = manifest.wheels
    return listed


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return flash_wheel(tmp_path / "dist")


def sealed(path: Path, **changes: Any) -> Path:
    """The report with changes and a new digest, as a forger would write it."""
    write_report(path, json.loads(path.read_bytes()) | changes)
    return path


def test_an_unsigned_report_counts_for_candidate_only(site: Path, wheel: Path, tmp_path: Path) -> None:
    given = report(tmp_path / "r.json", wheel)
    listed = put(site, wheel, Policy(), given)
    assert (listed.channel, listed.proofs[0].voucher) == ("candidate", "")
    assert listed.channel_reason == "it passed, but no key of matrix.toml has signed the validation report"
    assert wheel.name not in (site / "stable" / "index.html").read_text()
    assert "validated on" not in (site / "index.html").read_text()
    with pytest.raises(ReportMismatch, match="cannot go to stable: it passed, but no key"):
        put(site, wheel, Policy(), given, channel="stable")


def test_a_made_up_gpu_reaches_no_one(site: Path, wheel: Path, tmp_path: Path) -> None:
    """What a forger can do without a key: a report of an invented machine, with its own digest."""
    forged = sealed(report(tmp_path / "r.json", wheel), gpu="NVIDIA H900", driver="999.99")
    assert put(site, wheel, Policy(keys={"farm": "0" * 64}), forged).channel == "candidate"


def test_a_site_may_vouch_for_unsigned_reports_and_says_so(site: Path, wheel: Path, tmp_path: Path) -> None:
    given, words = report(tmp_path / "r.json", wheel), "reports that no key has signed"
    put(site, wheel, Policy(), given)
    assert words not in (site / "index.html").read_text()
    listed = put(site, wheel, TRUSTING, given)
    assert (listed.channel, listed.proofs[0].voucher) == ("stable", "site")
    assert words in (site / "index.html").read_text()
    assert put(site, wheel, Policy(), given).proofs[0].voucher == "site"  # recorded for good


def test_a_signed_report_puts_its_wheel_on_stable(site: Path, wheel: Path, tmp_path: Path) -> None:
    given, key = report(tmp_path / "r.json", wheel), tmp_path / "farm.pem"
    policy = Policy(keys={"farm": new_key(key), "next": "1" * 64})
    assert put(site, wheel, policy, given).channel == "candidate"
    sign_report(given, key)
    listed = put(site, wheel, policy, given)
    assert listed.channel == "stable"
    assert ("signature", "farm") in {(proof.voucher, proof.signed_by) for proof in listed.proofs}
    assert "signed by farm" in (site / "index.html").read_text()


def test_a_wrong_signature_is_refused_and_the_site_is_untouched(
    site: Path, wheel: Path, tmp_path: Path
) -> None:
    given, key = report(tmp_path / "r.json", wheel), tmp_path / "farm.pem"
    public = new_key(key)
    sign_report(given, key)
    with pytest.raises(BadSignature, match=r"which release\.keys of matrix.toml does not list"):
        put(site, wheel, Policy(keys={"other": "1" * 64}), given)
    with pytest.raises(BadSignature, match="not one of this report"):
        put(site, wheel, Policy(keys={"farm": public}), sealed(given, gpu="NVIDIA B200"))
    assert not (site / "files").exists()


def test_the_tree_vouches_for_its_own_reports(site: Path, wheel: Path, tmp_path: Path) -> None:
    given = report(tmp_path / "validation" / "r.json", wheel)
    listed = put(site, wheel, Policy(), given, archive=given.parent)
    assert (listed.channel, listed.proofs[0].voucher) == ("stable", "tree")


def test_one_case_proves_nothing_of_the_other_kernels(site: Path, wheel: Path, tmp_path: Path) -> None:
    given = report(tmp_path / "r.json", wheel)
    document = json.loads(given.read_bytes())
    one = sealed(
        given, cases=document["cases"][:1], totals={"cases": 1, "races": 1, "failed": 0}, outcomes=[]
    )
    listed = put(site, wheel, TRUSTING, one)
    ran, *others = sorted(BUILD["toolkits"])
    assert listed.channel == "candidate"
    assert listed.channel_reason == (
        f"its validation does not cover it: {others[0]}: 0 cases of category plain passed, of 1 needed "
        "(and 2 more)"
    )
    assert ran not in listed.channel_reason


def test_each_kernel_needs_the_minimum_of_cases(site: Path, wheel: Path, tmp_path: Path) -> None:
    given = report(tmp_path / "r.json", wheel)
    listed = put(site, wheel, Policy(min_cases=2, trust_unsigned=True), given)
    assert "1 cases of category plain passed, of 2 needed (and 3 more)" in listed.channel_reason


def test_the_kernels_are_those_of_the_wheel_and_not_of_the_report(site: Path, tmp_path: Path) -> None:
    """A later report of a published wheel is judged by the published file."""
    more = {**BUILD["kernels"][0], "name": "fwd_sm90_bf16_d256_full"}
    build = {**BUILD, "kernels": [*BUILD["kernels"], more]}
    wide = write_wheel(
        tmp_path / "wide",
        name=f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl",
        members=flash_members(build=build),
    )
    put(site, wide, TRUSTING)
    given = report(tmp_path / "r.json", wide)
    rows = [row for row in json.loads(given.read_bytes())["cases"] if row["kernel"] != more["name"]]
    sealed(given, cases=rows, totals={"cases": len(rows), "races": 1, "failed": 0})
    manifest = publish(wheels=[], reports=[given], site=site, now=NOW, progress=Quiet(), policy=TRUSTING)
    assert "fwd_sm90_bf16_d256_full: 0 cases" in manifest.wheels[0].channel_reason


def test_a_trial_wheel_never_goes_to_stable(site: Path, tmp_path: Path) -> None:
    wheel = flash_wheel(tmp_path / "dist", version="0.1.0+trial.5f3a")
    given = report(tmp_path / "r.json", wheel)
    assert "it is a trial wheel" in put(site, wheel, TRUSTING, given).channel_reason
    with pytest.raises(ReportMismatch, match="cannot go to stable: it is a trial wheel"):
        put(site, wheel, TRUSTING, given, channel="stable")


def test_a_report_of_another_schema_is_left_out_with_a_warning(
    site: Path, wheel: Path, tmp_path: Path
) -> None:
    progress = Quiet()
    old = sealed(report(tmp_path / "validation" / "old.json", wheel), schema_version=1)
    publish(wheels=[wheel], reports=[], site=site, now=NOW, progress=progress, archive=old.parent)
    (warning,) = progress.warned
    assert "old.json: schema_version: should be 2, got 1" in warning
    assert "counts for no wheel" in warning
