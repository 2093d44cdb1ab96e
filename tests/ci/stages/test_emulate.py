"""The aarch64 wheel on this machine: its bytes, and its host part in an emulator."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.engine.local import LocalEngine
from ci.errors import CorruptReport, NotJudged, UnknownCell
from ci.gpu_side.report_file import write_report
from ci.proof.emulation import SECTIONS, read_emulation
from ci.stages.audit import audit
from ci.stages.build import Workshop, build
from ci.stages.emulate import emulate
from ci.wheel.read import read_wheel
from kernels.build.payload import PACK_NAME
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.emulated.forked import run_forked
from tests.emulated.suite import SLOW
from tests.kernels.host.conftest import NATIVE_TARGET
from tests.kernels.host.doubles import main as compile_doubles
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels.table import Variant

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".farm" / "cache"


@pytest.fixture(scope="module")
def aarch64_wheel(toolkits: Path, few: tuple[Variant, ...]) -> Path:
    return build(
        artefact=Artefact("linux_aarch64", "12.8"),
        matrix=read_matrix(),
        workshop=Workshop(toolkits.parents[1], engine=LocalEngine(processors=2)),
        progress=Quiet(),
        variants=few,
    )


@pytest.fixture(scope="module")
def doubles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the double of the driver, for this machine."""
    driver, torch = (tmp_path_factory.mktemp(name) for name in ("driver", "torch"))
    compile_doubles(NATIVE_TARGET, str(driver), str(torch))
    return driver


def emulated(wheel: Path, report: Path, *, quick: bool = False) -> None:
    emulate(wheel=wheel, report=report, matrix=read_matrix(), cache=CACHE, progress=Quiet(), quick=quick)


def test_the_wheel_is_one_for_aarch64_with_the_kernels_of_x86(aarch64_wheel: Path, wheel: Path):
    checks = {check.name: check for check in audit(aarch64_wheel)}
    assert [check for check in checks.values() if not check.ok] == []
    assert "on aarch64; the tag allows 2.28" in checks["platform"].detail
    packs = []
    for path in (aarch64_wheel, wheel):
        with zipfile.ZipFile(path) as archive:
            packs.append(archive.read(f"flash_attn3/lib/{PACK_NAME}"))
    assert packs[0] == packs[1]
    assert read_wheel(aarch64_wheel).pack_sha256 == hashlib.sha256(packs[1]).hexdigest()


@pytest.mark.slow
def test_the_wheel_works_in_an_emulator(aarch64_wheel: Path, tmp_path: Path):
    """A real Python and torch for aarch64 import it, call it and get its errors.

    To import torch takes 45 s of processor time there; `farm emulate` alone runs the slowest checks as well.
    """
    try:
        emulated(aarch64_wheel, tmp_path / "report.json", quick=True)
    except NotJudged as error:
        pytest.skip(str(error))
    report = read_emulation(tmp_path / "report.json")
    assert report.passed
    assert report.quick
    assert (report.machine, report.platform) == ("aarch64", "linux_aarch64")
    assert "qemu-aarch64" in report.emulator
    assert report.torch.startswith("2.9.")
    names = {check.name for check in report.checks}
    assert {"import_takes_the_wheel", "every_operator_is_registered", "launch_carries_the_problem"} <= names
    assert names.isdisjoint(SLOW)
    assert {check.section for check in report.checks} == set(SECTIONS).difference(SLOW)


def test_a_wheel_of_this_machine_needs_no_emulator(wheel: Path, tmp_path: Path):
    with pytest.raises(
        UnknownCell, match=r"should be a wheel for linux_aarch64, got one for manylinux.*x86_64"
    ):
        emulated(wheel, tmp_path / "report.json")


def test_a_missing_emulator_is_named(aarch64_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        NotJudged, match=r"none of qemu-aarch64, .* is installed; apt install qemu-user"
    ) as caught:
        emulated(aarch64_wheel, tmp_path / "report.json")
    assert caught.value.exit_code == 51
    assert not (tmp_path / "report.json").exists()


def test_packages_that_cannot_be_had_are_named(
    aarch64_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An apt without a network; and the machine is not left half made."""
    for name, text in {
        "qemu-aarch64": "exit 0",
        "dpkg-deb": "exit 0",
        "apt-get": "echo E: no index >&2; exit 100",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cache = tmp_path / "cache"
    with pytest.raises(NotJudged, match=r"apt has no python3 and libstdc\+\+6 for arm64: E: no index"):
        emulate(
            wheel=aarch64_wheel, report=tmp_path / "r", matrix=read_matrix(), cache=cache, progress=Quiet()
        )
    assert [path.name for path in (cache / "emulated").iterdir()] == ["lock"]


class TestSuite:
    """The suite itself, on this machine's own wheel and without an emulator."""

    @pytest.fixture
    def unpacked(self, wheel: Path, tmp_path: Path) -> Path:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "wheel")
        return tmp_path / "wheel"

    def run(self, unpacked: Path, doubles: Path, folder: Path) -> dict[str, str]:
        """Run the section of the runtime; returns check -> why it failed."""
        outcomes = folder / "outcomes.json"
        subprocess.run(
            [sys.executable, "-m", "tests.emulated.suite", outcomes, unpacked, "runtime"],
            env={**os.environ, "LD_LIBRARY_PATH": str(doubles), "PYTHONPATH": str(ROOT)},
            cwd=folder,
            check=True,
        )
        return {check["name"]: check["failure"] for check in json.loads(outcomes.read_text())["checks"]}

    def test_what_is_wrong_with_a_library_is_found(self, unpacked: Path, doubles: Path, tmp_path: Path):
        library = unpacked / "flash_attn3" / "lib" / "libflash_attn3.so"
        library.write_bytes(library.read_bytes().replace(b"should be", b"shall  be"))
        found = self.run(unpacked, doubles, tmp_path)
        failed = {name for name, failure in found.items() if failure}
        assert "AssertionError" in found["codes_that_are_not_allowed_are_passed_over"]
        assert not found["launch_carries_the_problem"]
        assert not found["the_wheel_s_kernels_serve_sm_90"]
        assert len(failed) < len(found) / 2

    def test_a_pack_that_is_cut_short_is_found(self, unpacked: Path, doubles: Path, tmp_path: Path):
        pack = unpacked / "flash_attn3" / "lib" / PACK_NAME
        pack.write_bytes(pack.read_bytes()[:-1])
        found = self.run(unpacked, doubles, tmp_path)
        failed = {name for name, failure in found.items() if failure}
        assert failed == {name for name in found if name.startswith("the_wheel_s_kernels_serve_")} != set()


def _fall_asleep() -> None:
    time.sleep(60)


def _say_no() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("check", "failure"),
    [
        (lambda: None, ""),
        (_say_no, r".*ValueError: no"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"its process ended with -9"),
        (lambda: os._exit(3), r"its process ended with 3"),
        (_fall_asleep, r"it took more than 0.5 s"),
    ],
)
def test_a_check_costs_no_other_one(check: Callable[[], None], failure: str):
    outcome = run_forked("section", "name", check, time_limit_s=0.5)
    assert re.fullmatch(failure, outcome.failure), outcome
    assert outcome.seconds < 5


class TestReport:
    @pytest.fixture
    def document(self) -> dict[str, object]:
        check = {"section": "runtime", "name": "a", "seconds": 0.1, "failure": ""}
        texts = ("started", "finished", "emulator", "machine", "libc", "python", "torch", "platform")
        return {
            "schema_version": 1,
            "kind": "emulation",
            "quick": False,
            "wheel_filename": "w.whl",
            "wheel_sha256": "0" * 64,
            "wheel_size": 1,
            **dict.fromkeys(texts, "text"),
            "checks": [check],
            "checks_passed": 1,
            "checks_failed": 0,
            "passed": True,
        }

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"checks": []}, "its totals are not those of its checks"),
            ({"checks_passed": 2}, "its totals are not those of its checks"),
            ({"passed": False}, "has passed=False, which contradicts its checks"),
            ({"checks": [], "checks_passed": 0}, "has passed=True, which contradicts its checks"),
            ({"schema_version": 9}, "schema_version: should be 1, got 9; emulate the wheel again"),
            ({"kind": "validation"}, "not an emulation report"),
            ({"wheel_sha256": "abc"}, "wheel_sha256: String should match pattern"),
        ],
    )
    def test_what_contradicts_itself_is_refused(
        self, document: dict[str, object], changes: dict[str, object], message: str, tmp_path: Path
    ):
        path = tmp_path / "report.json"
        write_report(path, document)
        assert read_emulation(path).passed
        write_report(path, document | changes)
        with pytest.raises(CorruptReport, match=re.escape(message)):
            read_emulation(path)

    def test_an_edited_report_is_refused(self, document: dict[str, object], tmp_path: Path):
        path = tmp_path / "report.json"
        write_report(path, document)
        path.write_text(path.read_text().replace('"w.whl"', '"v.whl"'))
        with pytest.raises(CorruptReport, match="was altered"):
            read_emulation(path)
