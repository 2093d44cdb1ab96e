from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ci.errors import CorruptWheel, FarmError, NoGpu, ValidationFailed
from ci.gpu_side import install, validate
from ci.gpu_side.check_process import run_section
from ci.gpu_side.install import install_wheel, wheel_sha256
from ci.proof.report import read_report
from tests.ci.validation_kit import (
    CASE,
    HOST_TIME,
    RACE,
    ROW,
    emit_case,
    emit_environment,
    failed,
    make_wheel,
)

ROOT = Path(__file__).parents[3]
FULL = {
    "environment": emit_environment(),
    "correctness": emit_case(),
    "host_time": f"emit('host_time', host_time={HOST_TIME!r})",
    "race": f"emit('start', section='race', name='r'); emit('race', race=json.loads({json.dumps(RACE)!r}))",
}


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch):
    """The wheels here bring checks that need no GPU; the question whether there is one has its own test."""
    monkeypatch.setattr(validate, "_require_gpu", lambda: None)


def _validate(wheel: Path, report: Path, **options: Any) -> tuple[int, list[str]]:
    lines: list[str] = []
    code = validate.validate(wheel=wheel, report=report, progress=lines.append, **options)
    return code, lines


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.slow
class TestRun:
    def test_a_wheel_that_passes(self, tmp_path: Path):
        wheel, path = make_wheel(tmp_path, FULL), tmp_path / "reports" / "r.json"
        code, lines = _validate(wheel, path, quick=True)
        report = read_report(path)
        assert code == 0
        assert report.passed
        assert report.quick
        assert (report.wheel_sha256, report.wheel_size) == (wheel_sha256(wheel), wheel.stat().st_size)
        assert (report.totals.cases, report.totals.races, report.totals.failed) == (1, 1, 0)
        assert [row.model_dump() for row in report.cases] == [ROW]
        assert report.outcomes == ()
        assert report.sections == ("correctness", "host_time", "race")
        assert {section: run.op for section, run in report.operators.items()} == {
            "correctness": "fwd",
            "combine": "combine",
        }
        assert report.host_times[0].us == 12.5
        assert lines[-1] == "all 2 checks passed"

    def test_a_failing_case_fails_the_wheel(self, tmp_path: Path):
        wrong = emit_case(failed(CASE, "max_error is 1"))
        wheel = make_wheel(tmp_path, {**FULL, "memory": wrong})
        code, lines = _validate(wheel, tmp_path / "r.json")
        report = read_report(tmp_path / "r.json")
        assert code == ValidationFailed.exit_code
        assert not report.passed
        assert report.totals.failed == 1
        assert any("FAILED" in line and "max_error is 1" in line for line in lines)

    def test_a_crash_is_a_failing_case_and_the_report_is_written(self, tmp_path: Path):
        crash = emit_case() + (
            "emit('start', section='behaviour', name='many_streams')\n"
            "sys.stderr.write('CUDA error: an illegal memory access was encountered')\n"
            "sys.stderr.flush()\n"
            "os.abort()\n"
        )
        wheel = make_wheel(tmp_path, {**FULL, "behaviour": crash})
        code, _ = _validate(wheel, tmp_path / "r.json")
        report = read_report(tmp_path / "r.json")
        assert code == ValidationFailed.exit_code
        (case,) = report.outcomes
        assert (case.section, case.name) == ("behaviour", "many_streams")
        assert "exit status -6" in case.failures[0]
        assert "illegal memory access" in case.failures[0]
        assert len(report.races) == 1  # the sections after it ran

    def test_a_section_that_stops_early_fails(self, tmp_path: Path):
        wheel = make_wheel(tmp_path, {**FULL, "correctness": emit_case() + "sys.exit(0)"})
        code, _ = _validate(wheel, tmp_path / "r.json")
        assert code == ValidationFailed.exit_code
        assert "exit status 0" in read_report(tmp_path / "r.json").outcomes[-1].failures[0]

    def test_lines_that_are_no_events_are_passed_over(self, tmp_path: Path):
        noise = "print('Warning: [rank0] NCCL'); print('3'); print('{}'); print('[]')\n"
        wheel = make_wheel(tmp_path, {**FULL, "correctness": noise + emit_case() + noise})
        assert _validate(wheel, tmp_path / "r.json")[0] == 0

    def test_a_floor_on_speed_is_a_case(self, tmp_path: Path):
        wheel = make_wheel(tmp_path, FULL)
        assert _validate(wheel, tmp_path / "fast.json", min_ratio=1.1)[0] == 0
        code, _ = _validate(wheel, tmp_path / "slow.json", min_ratio=1.2)
        assert code == ValidationFailed.exit_code
        case = read_report(tmp_path / "slow.json").outcomes[-1]
        assert case.name == "min_ratio"
        assert case.failures == ("bf16_d128_full_s4096 is 1.130 x cuDNN; the floor is 1.2",)

    def test_a_floor_counts_the_slowest_run(self, tmp_path: Path):
        runs = "".join(
            f"emit('race', race={ {**RACE, 'run': run, 'ratio_to_cudnn': ratio}!r})\n"
            for run, ratio in ((1, 1.02), (2, 1.3))
        )
        wheel = make_wheel(tmp_path, {**FULL, "race": runs})
        assert _validate(wheel, tmp_path / "r.json", min_ratio=1.0)[0] == 0
        assert _validate(wheel, tmp_path / "r.json", min_ratio=1.1)[0] == ValidationFailed.exit_code
        assert read_report(tmp_path / "r.json").outcomes[-1].figures == {RACE["name"]: 1.02}

    def test_portable_kernels_have_a_floor_of_their_own(self, tmp_path: Path):
        portable = {**RACE, "name": "p", "kernels": "portable", "ratio_to_cudnn": 0.5, "ratio_to_flash": 0.93}
        races = "".join(f"emit('race', race={race!r})\n" for race in (RACE, portable))
        wheel = make_wheel(tmp_path, {**FULL, "race": races})
        floors = {"min_ratio": 1.1, "min_portable_ratio": 0.9}
        assert _validate(wheel, tmp_path / "r.json", **floors)[0] == 0
        cases = read_report(tmp_path / "r.json").outcomes
        assert [case.figures for case in cases] == [{RACE["name"]: 1.13}, {"p": 0.93}]
        code, _ = _validate(wheel, tmp_path / "r.json", min_portable_ratio=0.95)
        assert code == ValidationFailed.exit_code
        assert read_report(tmp_path / "r.json").outcomes[-1].failures == (
            "p is 0.930 x torch's flash; the floor is 0.95",
        )

    def test_races_alone_prove_no_wheel(self, tmp_path: Path):
        show = "import sys; emit('start', section='race', name=' '.join(sys.argv[2:]))\n"
        wheel = make_wheel(tmp_path, {**FULL, "race": FULL["race"] + "\n" + show + "os.abort()"})
        races = validate.Races(names=("*d128*",), runs=2, peers=(tmp_path / "a.so",), alone=True)
        code, _ = _validate(wheel, tmp_path / "r.json", races=races)
        report = read_report(tmp_path / "r.json")
        assert code == ValidationFailed.exit_code
        assert [case.section for case in report.outcomes] == ["race"]
        assert f"--race=*d128* --race-runs=2 --peer={tmp_path / 'a.so'}" in report.outcomes[0].name
        assert (report.race_runs, report.race_names, report.only_races) == (2, ("*d128*",), True)
        code, _ = _validate(make_wheel(tmp_path, FULL), tmp_path / "r.json", min_ratio=1.1, races=races)
        report = read_report(tmp_path / "r.json")
        assert code == 0
        assert report.totals.failed == 0
        assert not report.passed

    def test_a_race_that_is_not_judged_is_recorded(self, tmp_path: Path):
        setting = {"op": "bwd", "deterministic": False, **RACE["setting"]}
        slow = {**RACE, "name": "slow", "setting": setting, "judged": False, "ratio_to_cudnn": 0.7}
        portable = {**slow, "name": "slow@portable", "kernels": "portable", "ratio_to_flash": 0.6}
        fast = {**RACE, "name": "fast@portable", "kernels": "portable", "ratio_to_flash": 1.2}
        code = "".join(f"emit('race', race={race!r})\n" for race in (RACE, slow, portable, fast))
        wheel = make_wheel(tmp_path, {**FULL, "race": code})
        code, lines = _validate(wheel, tmp_path / "r.json", min_ratio=1.1, min_portable_ratio=0.9)
        assert code == 0
        shown = [line.split(": ")[0].strip() for line in lines if line.endswith("(recorded; no bar yet)")]
        assert shown == ["slow", "slow@portable"]
        report = read_report(tmp_path / "r.json")
        assert [case.figures for case in report.outcomes] == [{RACE["name"]: 1.13}, {"fast@portable": 1.2}]
        raced = {race.name: (race.setting.op, race.judged, race.ratio_to_cudnn) for race in report.races}
        assert raced["slow"] == ("bwd", False, 0.7)
        assert raced[RACE["name"]] == ("fwd", True, 1.13)

    @pytest.mark.parametrize(
        "special", [{"window": 1024}, {"varlen": True}, {"group": 8}, {"head_dim_v": 64}]
    )
    def test_a_special_race_has_no_floor(self, tmp_path: Path, special: dict[str, Any]):
        race = {**RACE, "name": "special", "setting": {**RACE["setting"], **special}, "ratio_to_cudnn": None}
        wheel = make_wheel(
            tmp_path,
            {**FULL, "race": FULL["race"] + f"; emit('race', race=json.loads({json.dumps(race)!r}))\n"},
        )
        assert _validate(wheel, tmp_path / "r.json", min_ratio=1.1)[0] == 0
        report = read_report(tmp_path / "r.json")
        assert [found.name for found in report.races] == ["bf16_d128_full_s4096", "special"]
        assert list(report.outcomes[-1].figures) == ["bf16_d128_full_s4096"]

    def test_the_tree_is_never_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(ROOT)
        elsewhere = emit_environment(package_folder=str(ROOT / "flash_attn3"))
        with pytest.raises(ValidationFailed, match="not from the wheel"):
            _validate(make_wheel(tmp_path, {**FULL, "environment": elsewhere}), tmp_path / "r.json")
        assert not (tmp_path / "r.json").exists()

    def test_a_wheel_that_cannot_be_imported_fails(self, tmp_path: Path):
        broken = {**FULL, "environment": "raise ImportError('undefined symbol: x')"}
        with pytest.raises(ValidationFailed, match="undefined symbol: x"):
            _validate(make_wheel(tmp_path, broken), tmp_path / "r.json")

    def test_a_report_that_cannot_be_written_is_found_first(self, tmp_path: Path):
        wheel = make_wheel(tmp_path, FULL)
        with pytest.raises(FarmError, match="--report"):
            _validate(wheel, tmp_path)
        with pytest.raises(FarmError, match="--report"):
            _validate(wheel, wheel / "r.json")


@pytest.mark.slow
def test_without_a_gpu_the_command_ends_with_24(tmp_path: Path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    report = tmp_path / "r.json"
    arguments = ["--wheel", str(make_wheel(tmp_path, FULL)), "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "ci.gpu_side.validate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == NoGpu.exit_code == 24
    assert done.stderr.startswith("farm: error: no GPU to validate on: torch ")
    assert len(done.stderr.splitlines()) == 1
    assert not report.exists()


@pytest.mark.slow
def test_the_checks_of_a_wheel_of_this_tree_list_sections_and_operators(wheel: Path, tmp_path: Path):
    """What validate runs, and what a report proves, follows from this event."""
    site, folder = tmp_path / "site", tmp_path / "folder"
    install_wheel(wheel, site)
    folder.mkdir()
    (event,) = run_section("environment", [], site=site, folder=folder)
    assert event["environment"]["package_folder"] == str(site / "flash_attn3")
    assert {"correctness", "memory", "behaviour", "fresh", "host_time", "race"} < set(event["sections"])
    assert {section: run["op"] for section, run in event["operators"].items()} == {
        "correctness": "fwd",
        "append": "append",
        "decode": "decode",
        "gradients": "bwd",
        "combine": "combine",
    }
    assert all(run["categories"] for run in event["operators"].values())
    assert set(event["operators"]) < set(event["sections"])


def _rewrite(wheel: Path, change: Any) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


RECORD = "flash_attn3-0.1.0.dist-info/RECORD"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: files.update({"flash_attn3/__init__.py": b"x = 1\n"}),
            "does not match its hash and size in RECORD",
        ),
        (lambda files: files.update({"flash_attn3/more.py": b""}), "more.py has no row"),
        (lambda files: files.update({"../outside.py": b""}), "outside the environment"),
        (lambda files: files.pop(RECORD), "not a whole wheel: .*RECORD"),
        (lambda files: files.update({RECORD: b"\xff"}), "not a whole wheel"),
    ],
)
def test_an_altered_wheel_is_refused(tmp_path: Path, change: Any, message: str):
    wheel = make_wheel(tmp_path, FULL)
    _rewrite(wheel, change)
    with pytest.raises(CorruptWheel, match=message):
        install_wheel(wheel, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_cut_wheel_is_refused(tmp_path: Path):
    wheel = make_wheel(tmp_path, FULL)
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(CorruptWheel, match="not a whole wheel"):
        install_wheel(wheel, tmp_path / "site")
    with pytest.raises(CorruptWheel, match="cannot be read"):
        wheel_sha256(tmp_path / "none.whl")


def test_without_pip_the_files_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda _name: None)
    install_wheel(make_wheel(tmp_path, FULL), tmp_path / "site")
    assert (tmp_path / "site" / "flash_attn3" / "checks" / "__main__.py").is_file()


@pytest.mark.slow
def test_a_wheel_that_pip_refuses_is_named(tmp_path: Path):
    wheel = make_wheel(tmp_path, FULL)
    other = wheel.rename(tmp_path / "flash_attn3-0.1.0-py3-none-win_arm64.whl")
    with pytest.raises(CorruptWheel, match=r"pip cannot install it here: .*not a supported wheel"):
        install_wheel(other, tmp_path / "site")
