"""The validate stage: installs a wheel into an empty folder and checks it on this machine's GPU.

Needs the wheel, Python, torch and a GPU. The checks are those inside the wheel (``python -m
flash_attn3.checks``); each section runs in a process of its own, so that a crash is reported as a failure of
one section.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ci.errors import FarmError, NoGpu, ValidationFailed
from ci.gpu_side.check_process import ChecksFailed, run_section
from ci.gpu_side.command import exit_code_of
from ci.gpu_side.install import install_wheel, wheel_sha256
from ci.gpu_side.report_file import SCHEMA_VERSION, write_report
from ci.gpu_side.speed_floor import PROVIDERS, cudnn_floor, portable_floor
from ci.gpu_side.tally import Tally
from ci.output import last_line

Progress = Callable[[str], None]
_RACE_HELP = "race only settings with matching names, such as 'bf16_d128_*'; repeatable"
_PEER_HELP = (
    "also race the existing FlashAttention-3, whose operators this shared library registers; "
    "repeatable: the libraries are loaded in order"
)


@dataclass(frozen=True)
class Races:
    """Options of the races.

    Attributes:
        names: globs of the names of the races to run; empty: all.
        runs: runs of each race.
        peers: shared libraries of the existing FlashAttention-3 to race as well, in the order of loading.
        alone: whether to run the races only.
    """

    names: tuple[str, ...] = ()
    runs: int = 1
    peers: tuple[Path, ...] = ()
    alone: bool = False

    @property
    def options(self) -> list[str]:
        """The options of ``python -m flash_attn3.checks``."""
        return [
            *(f"--race={name}" for name in self.names),
            f"--race-runs={self.runs}",
            *(f"--peer={path.resolve()}" for path in self.peers),
        ]


_EVERY_RACE = Races()


def validate(
    *,
    wheel: Path,
    report: Path,
    quick: bool = False,
    samples: int = 100,
    seed: int = 1,
    min_ratio: float | None = None,
    min_portable_ratio: float | None = None,
    races: Races = _EVERY_RACE,
    progress: Progress = print,
) -> int:
    """Validate a wheel on GPU 0 of this machine and write a report bound to the wheel's sha256.

    Args:
        wheel: the wheel; installed into a temporary folder, which is removed again.
        report: the JSON file to write, replaced in one step; also written when the wheel failed.
        quick: run a small selection of the cases; the report records it.
        samples: number of random cases besides the fixed ones.
        seed: seed of the random cases.
        min_ratio: fail when a plain race is slower than this multiple of cuDNN; None: no limit.
        min_portable_ratio: fail when a race of the portable kernels is slower than this multiple of torch's
            flash backend; None: no limit.
        races: options of the races.
        progress: called with each line of progress.

    Returns:
        0 when nothing failed, 23 when a check failed. A report of races only has ``passed`` false in both
        cases.

    Raises:
        FarmError: the report cannot be written.
        CorruptWheel: the wheel cannot be read or does not match its RECORD.
        NoGpu: torch cannot use a GPU; no report is written.
        ValidationFailed: the installed wheel cannot be imported; no report is written.
    """
    started = _now()
    _require_writable(report)
    digest, size = wheel_sha256(wheel), wheel.stat().st_size
    progress(f"validate {wheel.name} (sha256 {digest})")
    _require_gpu()
    folder = Path(tempfile.mkdtemp(prefix="flash-attn3-validate-"))
    try:
        site = folder / "site"
        install_wheel(wheel, site)
        environment, sections, operators = _environment(_Place(site, folder))
        progress(_machine_line(environment))
        found = _Findings()
        options = [f"--samples={samples}", f"--seed={seed}", *(["--quick"] if quick else []), *races.options]
        ran = ("race",) if races.alone else sections
        for section in ran:
            _run(section, options, _Place(site, folder), found, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if min_ratio is not None:
        found.cases.add(cudnn_floor(min_ratio, found.races), whole=True)
    if min_portable_ratio is not None:
        found.cases.add(portable_floor(min_portable_ratio, found.races), whole=True)
    rows, failed = list(found.cases.rows()), found.failed
    if wheel_sha256(wheel) != digest:
        raise ValidationFailed(f"{wheel.name} changed while it was validated; nothing was written")
    write_report(
        report,
        {
            "schema_version": SCHEMA_VERSION,
            "wheel_filename": wheel.name,
            "wheel_sha256": digest,
            "wheel_size": size,
            "started": started,
            "finished": _now(),
            "quick": quick,
            "samples": samples,
            "seed": seed,
            "min_ratio": min_ratio,
            "min_portable_ratio": min_portable_ratio,
            "race_runs": races.runs,
            "race_names": races.names,
            "only_races": races.alone,
            "sections": ran,
            "operators": operators,
            **environment,
            "cases": rows,
            "outcomes": found.cases.outcomes,
            "races": found.races,
            "host_times": found.host_times,
            "totals": {"cases": found.cases.count, "races": len(found.races), "failed": failed},
            "passed": not failed and any(row["section"] in operators for row in rows),
        },
    )
    progress(f"report: {report}")
    checks = found.count
    progress(f"{failed} of {checks} checks FAILED" if failed else f"all {checks} checks passed")
    return ValidationFailed.exit_code if failed else 0


@dataclass(frozen=True)
class _Place:
    """The folder that the wheel is installed in, and the working folder of the checks."""

    site: Path
    folder: Path


@dataclass
class _Findings:
    """The results of the sections run so far."""

    cases: Tally = field(default_factory=Tally)
    races: list[dict[str, Any]] = field(default_factory=list)
    host_times: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of checks and races."""
        return self.cases.count + len(self.races)

    @property
    def failed(self) -> int:
        """Number of those that failed."""
        return self.cases.failed + sum(not race["passed"] for race in self.races)


def _require_writable(report: Path) -> None:
    """Raise before the checks run, not after minutes of work."""
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FarmError(f"--report {report}: its folder cannot be made: {error.strerror}") from error
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise FarmError(f"--report {report}: must be a file in a folder that can be written to")


def _require_gpu() -> None:
    """Raise unless torch sees a GPU; without one the wheel neither passes nor fails."""
    program = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = last_line(done.stderr, "it wrote no message")
        raise NoGpu(f"{sys.executable} cannot import torch, which validation needs: {reason}")
    version, cuda, available = done.stdout.split()[-3:]
    if available != "True":
        raise NoGpu(
            f"no GPU to validate on: torch {version} (CUDA {cuda}) of {sys.executable} sees none; "
            "run validate on a machine with the wheel, torch and a GPU"
        )


def _environment(place: _Place) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """Return what the wheel's checks report of themselves.

    Returns:
        The environment, the sections in the order to run, and for those that run an operator's cases the
        operator with its categories of cases.
    """
    try:
        (event,) = run_section("environment", [], site=place.site, folder=place.folder)
    except ChecksFailed as error:
        raise ValidationFailed(f"the installed wheel cannot be imported: {error}") from error
    environment: dict[str, Any] = event["environment"]
    package = environment.pop("package_folder")
    if not Path(package).is_relative_to(place.site):
        raise ValidationFailed(f"the checks imported flash_attn3 from {package}, not from the wheel")
    return environment, tuple(event["sections"]), event["operators"]


def _run(section: str, options: Sequence[str], place: _Place, found: _Findings, progress: Progress) -> None:
    progress(f"{section} ...")
    before, failed_before = found.count, found.failed
    running = {"section": section, "name": "start-up"}
    try:
        for event in run_section(section, options, site=place.site, folder=place.folder):
            if event["event"] == "start":
                running = {"section": event["section"], "name": event["name"]}
                continue
            result = event.get("outcome") or event.get("race")
            if event["event"] == "host_time":
                found.host_times.append(event["host_time"])
                progress("  " + _host_line(event["host_time"]))
            elif result is not None:
                if event["event"] == "race":
                    found.races.append(result)
                else:
                    found.cases.add(result)
                for failure in result["failures"]:
                    progress(f"  FAILED {result['name']}: {failure}")
                if event["event"] == "race":
                    progress("  " + _race_line(result))
    except ChecksFailed as error:
        failure = f"the process ended: {error}"
        lost = {"category": "", "params": {}, "figures": {}, "failures": [failure], "passed": False}
        found.cases.add({**running, **lost})
        progress(f"  FAILED {section} {running['name']}: {failure}")
    done, failed = found.count - before, found.failed - failed_before
    progress(f"{section}: {done - failed} of {done} passed")


def _machine_line(environment: dict[str, Any]) -> str:
    return (
        f"on {environment['gpu']} (sm_{environment['compute_capability'].replace('.', '')}), driver "
        f"{environment['driver']}, torch {environment['torch']}, Python {environment['python']}"
    )


def _race_line(race: dict[str, Any]) -> str:
    speeds = ", ".join(f"{timing['provider']} {timing['tflops']:.0f}" for timing in race["timings"])
    names = {f"ratio_to_{other}": shown for other, shown in PROVIDERS.items()}
    names["multiple_of_best"] = "the best known"
    ratios = ", ".join(
        f"{race[key]:.3f} x {shown}" for key, shown in names.items() if race.get(key) is not None
    )
    remark = "" if race.get("judged", True) else " (recorded; no bar yet)"
    return f"{race['name']}: {speeds} TFLOP/s; {ratios or 'nothing to compare with'}{remark}"


def _host_line(host_time: dict[str, Any]) -> str:
    if host_time["us"] is None:
        return f"{host_time['provider']}: {host_time['absent']}"
    return f"{host_time['provider']}: {host_time['us']:.1f} us a call"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: ``farm validate``."""
    parser = argparse.ArgumentParser(prog="farm validate", description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel to validate")
    parser.add_argument("--report", type=Path, required=True, help="the JSON report to write")
    parser.add_argument("--quick", action="store_true", help="run a small selection of the cases")
    parser.add_argument("--samples", type=int, default=100, help="number of random cases (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random cases (default: 1)")
    parser.add_argument("--min-ratio", type=float, help="fail below this multiple of cuDNN's speed")
    parser.add_argument(
        "--min-portable-ratio",
        type=float,
        help="fail when the portable kernels are below this multiple of the speed of torch's flash backend",
    )
    parser.add_argument("--race", action="append", default=[], metavar="GLOB", help=_RACE_HELP)
    parser.add_argument("--race-runs", type=int, default=1, help="runs of each race (default: 1)")
    parser.add_argument("--peer", action="append", default=[], type=Path, metavar="PATH", help=_PEER_HELP)
    parser.add_argument(
        "--only-races", action="store_true", help="run the races only; such a report proves no wheel"
    )
    arguments = vars(parser.parse_args(argv))
    races = Races(
        names=tuple(arguments.pop("race")),
        runs=arguments.pop("race_runs"),
        peers=tuple(arguments.pop("peer")),
        alone=arguments.pop("only_races"),
    )
    return exit_code_of(
        lambda: validate(**arguments, races=races, progress=lambda line: print(line, flush=True))
    )


if __name__ == "__main__":
    sys.exit(main())
