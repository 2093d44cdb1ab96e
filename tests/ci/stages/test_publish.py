"""Publishing: the channel of a wheel, what is refused, and that published files stay intact.

Over 500 lines: one command with many refusals, over one set of wheels and reports.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.errors import (
    CorruptReport,
    CorruptWheel,
    DiskFull,
    FarmError,
    RacesAlone,
    ReportMismatch,
    UnknownWheel,
    UnsafeSite,
    WheelConflict,
)
from ci.gpu_side.report_file import write_report
from ci.platforms.environment import fresh_environment, inspect_interpreter
from ci.stages.coverage import exclusions, support_by_tag
from ci.stages.listing import Context
from ci.stages.publish import publish
from ci.store.folder import held_site
from ci.store.serve import served
from ci.store.store import MARKER
from index_site.errors import CorruptManifest
from index_site.manifest import Manifest, OperatorBuild, Wheel, read_manifest
from index_site.pages import render
from index_site.proofs import PeerSpeed
from matrix.block import Block
from matrix.model import read_matrix
from matrix.planner import plan
from tests.quiet import Quiet
from tests.site_kit import (
    LATER,
    NOW,
    PLATFORM_TAG,
    TRUSTING,
    flash_members,
    flash_wheel,
    report,
    torch_folder,
    write_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ci.proof.evidence import Policy
    from index_site.manifest import Channel

ROOT = Path(__file__).parents[3]


def put(
    site: Path,
    *wheels: Path,
    reports: Sequence[Path] = (),
    now: datetime = NOW,
    archive: Path | None = None,
    channel: Channel | None = None,
    context: Context | None = None,
    policy: Policy = TRUSTING,
) -> Manifest:
    return publish(
        wheels=wheels,
        reports=reports,
        site=site,
        now=now,
        progress=Quiet(),
        archive=archive,
        channel=channel,
        context=context,
        policy=policy,
    )


def only(manifest: Manifest) -> Wheel:
    (wheel,) = manifest.wheels
    return wheel


def tree(site: Path) -> dict[str, bytes]:
    """Every file that is served."""
    files = (path for path in site.rglob("*") if path.is_file() and ".flash-attn3-site" not in path.parts)
    return {str(path.relative_to(site)): path.read_bytes() for path in files}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return flash_wheel(tmp_path / "dist")


# ---- channels


def test_wheel_without_a_report_is_a_candidate_and_the_page_says_why(site: Path, wheel: Path) -> None:
    listed = only(put(site, wheel))
    assert listed.channel == "candidate"
    assert listed.channel_reason == "no GPU has validated it: there is no report for exactly these bytes"
    assert listed.channel_reason in (site / "index.html").read_text()
    assert wheel.name not in (site / "stable" / "index.html").read_text()


def test_wheel_with_a_passing_report_is_stable_and_the_report_is_served(site: Path, wheel: Path) -> None:
    given_report = report(site.parent / "r.json", wheel)
    listed = only(put(site, wheel, reports=[given_report]))
    assert (listed.channel, listed.channel_reason) == ("stable", "")
    (proof,) = listed.proofs
    assert (proof.gpu, proof.cases_passed, proof.cases_total, proof.worst_error_ratio) == (
        "NVIDIA H200",
        4,
        4,
        0.4,
    )
    assert proof.races == {"bf16_d128_causal_s4096": 1.08}
    assert (proof.sm, proof.proven) == ("90", {"fwd": ("exact",)})
    assert proof.tflops == {"bf16_d128_causal_s4096": 600.0}
    assert proof.peers == {"cudnn": {"bf16_d128_causal_s4096": PeerSpeed(tflops=600.0, ratio=1.08)}}
    assert (site / proof.path).read_bytes() == given_report.read_bytes()
    assert wheel.name in (site / "stable" / "index.html").read_text()


def test_a_race_counts_as_its_slowest_run_and_only_of_plain_calls_by_kernels_that_the_wheel_chose(
    site: Path, wheel: Path
) -> None:
    path = report(site.parent / "r.json", wheel)
    document = json.loads(path.read_text())
    race = document["races"][0]
    backward = {
        **race,
        "name": f"bwd_{race['name']}",
        "setting": {**race["setting"], "op": "bwd"},
        "judged": False,
    }
    names = [race["name"], backward["name"]]
    document["races"] = [
        race,
        {**race, "run": 2, "ratio_to_cudnn": 1.05},
        {**race, "run": 3, "ratio_to_cudnn": 1.2},
        {**race, "name": f"{race['name']}@portable", "kernels": "portable", "ratio_to_cudnn": 0.6},
        # cuDNN has no kernel of its own for a window: the ratio says nothing of a plain call.
        {**race, "name": "window", "setting": {**race["setting"], "window": 1024}, "ratio_to_cudnn": 25.77},
        {**race, "name": "join", "setting": {**race["setting"], "op": "combine"}, "judged": False},
        {**backward, "name": "in_order", "setting": {**backward["setting"], "deterministic": True}},
        backward,
    ]
    document["totals"]["races"] = 8
    write_report(path, document)
    (proof,) = only(put(site, wheel, reports=[path])).proofs
    assert proof.races == {race["name"]: 1.05, backward["name"]: race["ratio_to_cudnn"]}
    assert list(proof.tflops) == names
    assert [(peer, list(speeds)) for peer, speeds in proof.peers.items()] == [("cudnn", names)]
    assert proof.peers["cudnn"][race["name"]].ratio == 1.05


def test_report_may_come_later(site: Path, wheel: Path) -> None:
    put(site, wheel)
    listed = only(put(site, reports=[report(site.parent / "r.json", wheel)], now=LATER))
    assert (listed.channel, listed.upload_time) == ("stable", "2026-11-22T09:00:00Z")


def test_failed_report_keeps_a_wheel_back_even_beside_one_that_passed(site: Path, wheel: Path) -> None:
    reports = [
        report(site.parent / "good.json", wheel),
        report(
            site.parent / "bad.json",
            wheel,
            failures=("error 0.02 is above the limit 0.01",),
            gpu="NVIDIA H100",
        ),
    ]
    listed = only(put(site, wheel, reports=reports))
    assert listed.channel == "candidate"
    assert "failed validation on NVIDIA H100" in listed.channel_reason
    assert "mha_d128_s4097: error 0.02 is above the limit 0.01" in (site / "index.html").read_text()


def test_quick_validation_is_not_enough(site: Path, wheel: Path) -> None:
    listed = only(put(site, wheel, reports=[report(site.parent / "r.json", wheel, quick=True)]))
    assert (listed.channel, listed.channel_reason) == ("candidate", "it passed a quick validation only")


def test_wheel_held_back_stays_back_until_it_is_given_again(site: Path, wheel: Path) -> None:
    reports = [report(site.parent / "r.json", wheel)]
    assert only(put(site, wheel, reports=reports, channel="candidate")).channel == "candidate"
    assert only(put(site, reports=reports)).channel == "candidate"
    assert only(put(site, wheel)).channel == "stable"


def test_stable_is_refused_on_demand_without_a_passing_report(site: Path, wheel: Path) -> None:
    with pytest.raises(ReportMismatch, match="cannot go to stable: no GPU has validated it"):
        put(site, wheel, channel="stable")
    assert not (site / "files").exists()


def test_stable_wheel_that_fails_later_is_yanked_and_stays_listed(site: Path, wheel: Path) -> None:
    put(site, wheel, reports=[report(site.parent / "r.json", wheel)])
    bad = report(site.parent / "bad.json", wheel, failures=("NaN in out",), gpu="NVIDIA H100")
    listed = only(put(site, reports=[bad]))
    assert listed.channel == "stable"
    assert listed.yanked is not None
    assert "NVIDIA H100" in listed.yanked
    assert "data-yanked=" in (site / "stable" / "index.html").read_text()


# ---- reports


def test_report_of_another_wheel_is_refused(site: Path, wheel: Path) -> None:
    other = flash_wheel(site.parent / "other", note="other bytes")
    with pytest.raises(
        ReportMismatch, match=r"r\.json: is a report of flash_attn3-0\.1\.0.* neither among the wheels given"
    ):
        put(site, wheel, reports=[report(site.parent / "r.json", other)])
    assert not (site / "files").exists()


def test_report_of_races_alone_is_refused_and_yanks_nothing(site: Path, wheel: Path) -> None:
    put(site, wheel, reports=[report(site.parent / "r.json", wheel)])
    before = tree(site)
    races = report(site.parent / "races.json", wheel)
    document = json.loads(races.read_text())
    totals = {"cases": 0, "races": 1, "failed": 0}
    write_report(races, document | {"only_races": True, "cases": [], "totals": totals, "passed": False})
    with pytest.raises(
        RacesAlone, match=r"races\.json: holds races only, .* run validate without `--only-races`"
    ):
        put(site, reports=[races])
    assert tree(site) == before


def test_archive_passes_over_reports_of_other_wheels(site: Path, wheel: Path) -> None:
    other = flash_wheel(site.parent / "other", note="other bytes")
    archive = site.parent / "validation"
    report(archive / "a.json", other)
    assert only(put(site, wheel, archive=archive)).channel == "candidate"
    report(archive / "b.json", wheel)
    assert only(put(site, wheel, archive=archive)).channel == "stable"


@pytest.mark.parametrize("where", ["reports", "archive"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "empty"])
def test_damaged_report_is_refused_and_the_site_is_untouched(
    site: Path, wheel: Path, damage: str, where: str
) -> None:
    put(site, wheel)
    before = tree(site)
    path = report(site.parent / "validation" / "r.json", wheel, failures=("wrong",))
    text = path.read_text()
    damaged = {"truncated": text[:-200], "altered": text.replace('"wrong"', '"write"'), "empty": ""}
    path.write_text(damaged.get(damage, ""))
    if damage == "missing":
        path.unlink()
        where = "reports"
    with pytest.raises(CorruptReport, match=r"r\.json"):
        put(site, wheel, **({"reports": [path]} if where == "reports" else {"archive": path.parent}))
    assert tree(site) == before


# ---- wheels


def test_corrupt_wheel_is_refused_and_the_site_is_untouched(site: Path, wheel: Path) -> None:
    put(site, wheel)
    before = tree(site)
    bad = flash_wheel(site.parent / "new", version="0.2.0")
    bad.write_bytes(bad.read_bytes()[:-30])
    with pytest.raises(CorruptWheel, match=r"flash_attn3-0\.2\.0"):
        put(site, flash_wheel(site.parent / "new", version="0.3.0"), bad)
    assert tree(site) == before


def test_wheel_whose_build_file_is_of_another_build_is_refused(site: Path, tmp_path: Path) -> None:
    for build in ({"version": "9"}, {"version": "0.1.0", "kernels": 3}, {"version": "0.1.0"}):
        members = {**flash_members(), "flash_attn3/build.json": json.dumps(build).encode()}
        path = write_wheel(tmp_path, name=f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl", members=members)
        with pytest.raises(CorruptWheel, match=r"build\.json"):
            put(site, path)


def test_missing_wheel_is_named(site: Path) -> None:
    with pytest.raises(UnknownWheel, match=r"gone\.whl cannot be read: No such file"):
        put(site, site.parent / "gone.whl")


def test_other_bytes_under_a_published_name_are_refused(site: Path, wheel: Path) -> None:
    put(site, wheel)
    before = tree(site)
    with pytest.raises(WheelConflict, match="a published wheel never changes"):
        put(site, flash_wheel(site.parent / "again", note="rebuilt"))
    assert tree(site) == before
    with pytest.raises(WheelConflict):
        put(site.parent / "new", wheel, site.parent / "again" / wheel.name)


def test_same_wheel_again_changes_nothing(site: Path, wheel: Path) -> None:
    reports = [report(site.parent / "r.json", wheel)]
    put(site, wheel, reports=reports)
    before = tree(site)
    written = {
        path: path.stat().st_mtime_ns for path in site.rglob("*") if path.is_file() and path.name != "lock"
    }
    put(site, wheel, wheel, reports=reports, now=LATER)
    assert tree(site) == before
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_damaged_published_file_is_put_right_from_the_same_wheel(site: Path, wheel: Path) -> None:
    put(site, wheel)
    before = tree(site)
    (site / "files" / wheel.name).write_bytes(b"bit rot")
    put(site, wheel)
    assert tree(site) == before


def test_what_the_wheel_serves_comes_from_the_matrix(site: Path, tmp_path: Path) -> None:
    matrix = read_matrix()
    served = plan(matrix)
    tag = "manylinux_2_17_x86_64"
    path = write_wheel(tmp_path, name=f"flash_attn3-0.1.0-py3-none-{tag}.whl", members=flash_members())
    context = Context(support=support_by_tag(matrix, served), exclusions=exclusions(matrix))
    manifest = put(site, path, context=context)
    support = manifest.support_of(only(manifest))
    assert support is not None
    for row in (*served.served, *served.excluded):
        is_served = row in served.served and row.cell.platform == "linux_x86_64"
        assert any(row.cell in block for block in support.cells) == is_served
    assert [(gpu.sm, gpu.operators["fwd"], gpu.operators["combine"]) for gpu in support.gpus][-4:] == [
        ("90", "exact", "portable"),
        ("100", "portable", "portable"),
        ("120", "portable", "portable"),
        ("newer", "ptx", "ptx"),
    ]
    assert len(manifest.exclusions) == len(matrix.exclude)
    assert Block(python=("3.10",), torch=("2.15",)) in [exclusion.cells for exclusion in manifest.exclusions]
    for excluded in served.excluded:
        first = next(item for item in manifest.exclusions if excluded.cell in item.cells)
        assert first.reason == excluded.reason
    build = only(manifest).build
    assert build is not None
    assert Counter({toolkit: len(kernels) for toolkit, kernels in build.toolkits.items()}) == {"12.8": 4}
    assert build.operators == {
        "fwd": OperatorBuild(
            sms=("90a",), dtypes=("bf16", "fp16"), head_dims=(128,), masks=("causal", "full")
        )
    }


def test_what_wheels_serve_is_stored_once_and_kept(site: Path, tmp_path: Path) -> None:
    """Publishing without a matrix keeps what the manifest has, and a record without a wheel is dropped."""
    matrix = read_matrix()
    tag = "manylinux_2_17_x86_64"
    members = [flash_members(version=version) for version in ("0.1.0", "0.2.0")]
    paths = [
        write_wheel(tmp_path, name=f"flash_attn3-0.{n}.0-py3-none-{tag}.whl", members=of)
        for n, of in enumerate(members, 1)
    ]
    supports = support_by_tag(matrix, plan(matrix))
    manifest = put(site, *paths, context=Context(support={**supports, "win_amd64": supports[tag]}))
    assert list(manifest.supports.values()) == [supports[tag]]
    assert {wheel.support for wheel in manifest.wheels} == {supports[tag].key}
    assert put(site, *paths) == manifest
    narrower = supports[tag].model_copy(update={"cells": supports[tag].cells[:1]})
    moved = put(site, *paths, context=Context(support={tag: narrower}))
    assert list(moved.supports.values()) == [narrower]
    assert read_manifest(site) == moved


# ---- the site


def test_two_sites_of_the_same_inputs_are_equal_whatever_the_order(tmp_path: Path) -> None:
    wheels = [flash_wheel(tmp_path / "dist", version=version) for version in ("0.10.0", "0.9.0", "0.11.0")]
    reports = [report(tmp_path / f"{n}.json", wheels[0], gpu=gpu) for n, gpu in enumerate(("H100", "H200"))]
    put(tmp_path / "a", *wheels, reports=reports)
    put(tmp_path / "b", *reversed(wheels), reports=reports[::-1])
    for path in wheels:
        put(tmp_path / "c", path)
    put(tmp_path / "c", reports=reports)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_every_page_is_what_the_manifest_asks_for(site: Path, wheel: Path) -> None:
    manifest = put(site, wheel)
    assert read_manifest(site) == manifest
    pages = render(manifest)
    assert {path: data for path, data in tree(site).items() if path in pages} == pages


def test_base_url_is_kept_checked_and_forgotten(site: Path, wheel: Path) -> None:
    assert (
        put(site, wheel, context=Context(base_url="https://host.example/fa3")).base_url
        == "https://host.example/fa3/"
    )
    assert put(site).base_url == "https://host.example/fa3/"
    assert put(site, context=Context(base_url="")).base_url is None
    for wrong in ("host.example", "ftp://host.example/", "https://host.example/?a=b"):
        with pytest.raises(FarmError, match="base_url: should be"):
            put(site, context=Context(base_url=wrong))


@pytest.mark.parametrize("damage", ["lost", "truncated", "older"])
def test_index_never_shrinks(site: Path, wheel: Path, damage: str) -> None:
    put(site, wheel)
    older = (site / "manifest.json").read_bytes()
    newer = flash_wheel(site.parent / "dist", version="0.2.0")
    put(site, newer)
    pages = tree(site)
    if damage == "lost":
        (site / "manifest.json").unlink()
    else:
        (site / "manifest.json").write_bytes(older if damage == "older" else older[:-50])
    with pytest.raises(CorruptManifest, match=r"manifest\.json"):
        put(site, wheel)
    assert {**tree(site), "manifest.json": b""} == {**pages, "manifest.json": b""}


def test_unsafe_site_is_refused_before_anything_is_read(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UnsafeSite):
        put(tmp_path / "photos", wheel)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


# ---- readers


def test_every_user_can_read_a_site_whatever_the_umask(site: Path, wheel: Path) -> None:
    """A site made with umask 077, by this version or an older one, is readable after the next publish."""
    before = os.umask(0o077)
    try:
        put(site, wheel, reports=[report(site.parent / "r.json", wheel)])
        for path in (site, *site.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            served_path = ".flash-attn3-site" not in path.parts
            assert not served_path or mode & 0o755 == 0o755 or (path.is_file() and mode & 0o644 == 0o644), (
                path
            )
            path.chmod(0o700 if path.is_dir() else 0o600)
        put(site, wheel)
    finally:
        os.umask(before)
    unreadable = [path for path in (site, *site.rglob("*")) if not path.stat().st_mode & 0o004]
    assert unreadable == [path for path in unreadable if MARKER in path.parts]


def test_many_wheels_are_counted_and_not_listed(site: Path, tmp_path: Path) -> None:
    wheels = [flash_wheel(tmp_path / "many", version=f"1.{number}.0") for number in range(30)]
    progress = Quiet()
    reports = [report(tmp_path / "r.json", wheels[0])]
    publish(wheels=wheels, reports=reports, site=site, now=NOW, progress=progress, policy=TRUSTING)
    assert progress.said == [
        "1 wheels: stable",
        "29 wheels: candidate, since no GPU has validated it: there is no report for exactly these bytes",
    ]


def test_a_second_publisher_says_that_it_waits(site: Path, wheel: Path) -> None:
    progress = Quiet()
    with ThreadPoolExecutor() as pool:
        with held_site(site):
            waiting = pool.submit(publish, wheels=[wheel], reports=[], site=site, now=NOW, progress=progress)
            deadline = time.monotonic() + 60
            while not progress.said and time.monotonic() < deadline:
                time.sleep(0.01)
            assert progress.said == [f"waiting for another farm, which works in {site / MARKER}"]
        assert len(waiting.result().wheels) == 1


# ---- kills and full disks

PUBLISH = """
import sys
from pathlib import Path
from ci.stages.publish import publish
from tests.quiet import Quiet
from tests.site_kit import NOW
site, *wheels = map(Path, sys.argv[1:])
print("go", flush=True)
publish(wheels=wheels, reports=[], site=site, now=NOW, progress=Quiet())
"""


def assert_consistent(site: Path) -> None:
    """Every wheel on any page exists, complete, with its metadata, and is in the manifest."""
    known = (
        {wheel.filename: wheel for wheel in read_manifest(site).wheels}
        if (site / "manifest.json").exists()
        else {}
    )
    for page in site.glob("*/simple/v1+json/*/index.json"):
        for entry in json.loads(page.read_bytes())["files"]:
            listed = known[entry["filename"]]
            assert listed.sha256 == entry["hashes"]["sha256"]
    for listed in known.values():
        assert (site / "files" / listed.filename).stat().st_size == listed.size
        assert (site / "files" / f"{listed.filename}.metadata").exists()


def assert_installs(site: Path, requirement: str, folder: Path) -> None:
    interpreter = inspect_interpreter(Path(sys.executable))
    torch_site = torch_folder(folder / "torch")
    with served(site) as base:
        index = f"{base}candidate/simple/"
        environment = fresh_environment(
            folder / "venv", interpreter=interpreter, torch_site=torch_site, index=index
        )
        environment.shell(f"uv pip install {requirement}", cwd=folder)
    version = environment.python_output("import flash_attn3; print(flash_attn3.__version__)", cwd=folder)
    assert version == "0.1.0\n"


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_kill_at_any_moment_leaves_a_good_site_and_the_next_run_completes_it(
    tmp_path: Path, first: bool
) -> None:
    old = flash_wheel(tmp_path / "dist", version="0.1.0")
    new = [flash_wheel(tmp_path / "dist", version=f"0.2.{n}", note="x" * 200_000) for n in range(8)]
    whole = tmp_path / "whole"
    start = time.perf_counter()
    put(whole, old, *new)
    whole_s = time.perf_counter() - start
    template = tmp_path / "template"
    if not first:
        put(template, old)
    argv = [sys.executable, "-c", PUBLISH]
    states = set()
    for turn in range(12):
        site = tmp_path / f"site{turn}"
        if not first:
            shutil.copytree(template, site)
        process = subprocess.Popen([*argv, site, old, *new], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
            time.sleep(whole_s * turn / 10)
            process.send_signal(signal.SIGKILL)
        process.wait()
        states.add(len(tree(site)) if site.exists() else 0)
        if site.exists():
            assert_consistent(site)
            if not first:
                assert old.name in (site / "candidate" / "index.html").read_text()
                if turn % 4 == 2:
                    assert_installs(site, "flash-attn3==0.1.0", tmp_path / f"environment{turn}")
        put(site, old, *new)
        assert tree(site) == tree(whole)
        assert not list(site.rglob(".scratch-*"))
        shutil.rmtree(site)
    assert len(states) > 1, "every kill came at the same moment: the test proves nothing"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB, twice what the pages of a small site take."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_one_error_and_the_old_site_stays(small_disk: Path, tmp_path: Path) -> None:
    site = small_disk / "site"
    put(site, flash_wheel(tmp_path / "dist"))
    before = tree(site)
    members = {**flash_members(version="0.2.0"), "flash_attn3/big.bin": os.urandom(800_000)}
    big = write_wheel(
        tmp_path / "dist", name=f"flash_attn3-0.2.0-py3-none-{PLATFORM_TAG}.whl", members=members
    )
    with pytest.raises(DiskFull, match="no room left"):
        put(site, big)
    assert tree(site) == before
    put(site, flash_wheel(tmp_path / "dist", version="0.3.0"))
    assert len(read_manifest(site).wheels) == 2


# ---- any history


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 3), max_size=4),
            st.sampled_from(["none", "pass", "fail", "quick"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_is_done_channels_only_grow_and_stable_is_proven(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[int], str, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    wheels = [flash_wheel(folder / "dist", version=f"0.{n}.0") for n in range(4)]
    put(folder / "site", flash_wheel(folder / "first", version="0.9.0"))
    listed: dict[str, set[str]] = {"stable": set(), "candidate": set()}
    failures = {"pass": (), "quick": (), "fail": ("wrong",)}
    for number, (chosen, outcome, again) in enumerate(steps):
        reports = [
            report(
                folder / f"{number}-{n}.json",
                wheels[n],
                failures=failures[outcome],
                quick=outcome == "quick",
                gpu=f"GPU {n}",
            )
            for n in chosen
            if outcome != "none"
        ]
        manifest = put(folder / "site", *(wheels[n] for n in sorted(chosen)), reports=reports)
        if again:
            assert put(folder / "site", *(wheels[n] for n in chosen), reports=reports, now=LATER) == manifest
        for channel in ("stable", "candidate"):
            names = {wheel.filename for wheel in manifest.on_channel(channel)}
            assert listed[channel] <= names
            listed[channel] = names
        for wheel in manifest.wheels:
            good = any(proof.passed and not proof.quick for proof in wheel.proofs)
            bad = any(not proof.passed for proof in wheel.proofs)
            assert good or wheel.channel == "candidate"
            assert wheel.channel == "candidate" or not bad or wheel.yanked is not None
