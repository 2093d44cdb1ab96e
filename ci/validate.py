"""The validate stage: installs a wheel into an empty folder and checks it on this machine's GPU.

Needs the wheel, Python, torch and a GPU, and nothing else: only the standard library is imported here. The
checks are those inside the wheel (``python -m flash_attn3.checks``), run section by section in processes of
their own, so that a crash of the GPU loses one section and is reported as a failure.
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

from ci.check_process import SECTIONS, ChecksFailed, run_section
from ci.errors import FarmError, NoGpu, ValidationFailed
from ci.report_file import SCHEMA_VERSION, write_report
from ci.unpack import install_wheel, sha256_of

Progress = Callable[[str], None]


def validate(
    *,
    wheel: Path,
    report: Path,
    quick: bool = False,
    samples: int = 100,
    seed: int = 1,
    min_ratio: float | None = None,
    progress: Progress = print,
) -> int:
    """Validate a wheel on GPU 0 of this machine and write a report bound to the wheel's sha256.

    Args:
        wheel: the wheel; installed into a temporary folder, which is removed again.
        report: the JSON file to write, replaced as a whole; written also when the wheel failed.
        quick: run a small selection of the cases. The report says so.
        samples: random cases beside the fixed ones.
        seed: of the random cases.
        min_ratio: fail when any race is slower than this multiple of cuDNN; None judges correctness alone.
        progress: told of each step, a line at a time.

    Returns:
        0 when the wheel passed, 23 when it failed.

    Raises:
        FarmError: the report could not be written there.
        CorruptWheel: the wheel cannot be read or does not match its own RECORD.
        NoGpu: there is no GPU that this torch can use; no report is written.
        ValidationFailed: the installed wheel cannot be imported; no report is written.
    """
    started = _now()
    _require_writable(report)
    digest, size = sha256_of(wheel), wheel.stat().st_size
    progress(f"validate {wheel.name} (sha256 {digest})")
    _require_gpu()
    folder = Path(tempfile.mkdtemp(prefix="flash-attn3-validate-"))
    try:
        site = folder / "site"
        install_wheel(wheel, site)
        environment = _environment(_Place(site, folder))
        progress(_machine_line(environment))
        found = _Findings()
        options = [f"--samples={samples}", f"--seed={seed}", *(["--quick"] if quick else [])]
        for section in SECTIONS:
            _run(section, options, _Place(site, folder), found, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if min_ratio is not None:
        found.cases += _speed_case(found.races, min_ratio)
    failed = [case["name"] for case in found.cases if not case["passed"]]
    failed += [race["name"] for race in found.races if not race["passed"]]
    if sha256_of(wheel) != digest:
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
            **environment,
            "cases": found.cases,
            "races": found.races,
            "host_times": found.host_times,
            "totals": {"cases": len(found.cases), "races": len(found.races), "failed": len(failed)},
            "passed": bool(found.cases) and not failed,
        },
    )
    progress(f"report: {report}")
    checks = len(found.cases) + len(found.races)
    progress(f"{len(failed)} of {checks} checks FAILED" if failed else f"all {checks} checks passed")
    return ValidationFailed.exit_code if failed else 0


@dataclass(frozen=True)
class _Place:
    """Where the wheel is installed, and an otherwise empty folder to run in."""

    site: Path
    folder: Path


@dataclass
class _Findings:
    """What the sections reported so far."""

    cases: list[dict[str, Any]] = field(default_factory=list)
    races: list[dict[str, Any]] = field(default_factory=list)
    host_times: list[dict[str, Any]] = field(default_factory=list)


def _require_writable(report: Path) -> None:
    """Raise now rather than after minutes of work."""
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FarmError(f"--report {report}: its folder cannot be made: {error.strerror}") from error
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise FarmError(f"--report {report}: must be a file in a folder that can be written to")


def _require_gpu() -> None:
    """Raise unless torch sees a GPU: without one nothing can be said of the wheel, neither good nor bad."""
    program = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NoGpu(f"{sys.executable} cannot import torch, which validation needs: {reason}")
    version, cuda, available = done.stdout.split()[-3:]
    if available != "True":
        raise NoGpu(
            f"no GPU to validate on: torch {version} (CUDA {cuda}) of {sys.executable} sees none; "
            "run validate on a machine with the wheel, torch and a GPU"
        )


def _environment(place: _Place) -> dict[str, Any]:
    try:
        (event,) = run_section("environment", [], site=place.site, folder=place.folder)
    except ChecksFailed as error:
        raise ValidationFailed(f"the installed wheel cannot be imported: {error}") from error
    environment: dict[str, Any] = event["environment"]
    package = environment.pop("package_folder")
    if not Path(package).is_relative_to(place.site):
        raise ValidationFailed(f"the checks imported flash_attn3 from {package}, not from the wheel")
    return environment


def _run(section: str, options: Sequence[str], place: _Place, found: _Findings, progress: Progress) -> None:
    progress(f"{section} ...")
    before = len(found.cases) + len(found.races)
    failed, running = 0, {"section": section, "name": "start-up"}
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
                (found.races if event["event"] == "race" else found.cases).append(result)
                failed += not result["passed"]
                for failure in result["failures"]:
                    progress(f"  FAILED {result['name']}: {failure}")
                if event["event"] == "race":
                    progress("  " + _race_line(result))
    except ChecksFailed as error:
        failed += 1
        failure = f"the process ended: {error}"
        found.cases.append({**running, "params": {}, "figures": {}, "failures": [failure], "passed": False})
        progress(f"  FAILED {section} {running['name']}: {failure}")
    done = len(found.cases) + len(found.races) - before
    progress(f"{section}: {done - failed} of {done} passed")


def _speed_case(races: Sequence[dict[str, Any]], min_ratio: float) -> list[dict[str, Any]]:
    """Turn the floor on speed into a case, so that a report shows what it was held to.

    Only races of one length, one head_dim and a full or causal mask are held to it: in the others cuDNN may
    have no path, or a slow one.
    """
    ratios = {race["name"]: race["ratio_to_cudnn"] for race in races if _is_plain(race["setting"])}
    slow = [
        f"{name} is {'not raced against cuDNN' if ratio is None else f'{ratio:.3f} x cuDNN'}; "
        f"the floor is {min_ratio:g}"
        for name, ratio in ratios.items()
        if ratio is None or ratio < min_ratio
    ]
    if not ratios:
        slow = [f"nothing was raced; the floor is {min_ratio:g} x cuDNN"]
    case: dict[str, Any] = {
        "section": "race",
        "name": "min_ratio",
        "params": {"min_ratio": min_ratio},
        "figures": ratios,
        "failures": slow,
        "passed": not slow,
    }
    return [case]


def _is_plain(setting: dict[str, Any]) -> bool:
    special = (setting.get("head_dim_v"), setting.get("window"), setting.get("varlen"))
    return setting.get("group", 1) == 1 and not any(special)


def _machine_line(environment: dict[str, Any]) -> str:
    return (
        f"on {environment['gpu']} (sm_{environment['compute_capability'].replace('.', '')}), driver "
        f"{environment['driver']}, torch {environment['torch']}, Python {environment['python']}"
    )


def _race_line(race: dict[str, Any]) -> str:
    speeds = ", ".join(f"{timing['provider']} {timing['tflops']:.0f}" for timing in race["timings"])
    names = {"ratio_to_cudnn": "x cuDNN", "ratio_to_flash": "x flash", "multiple_of_best": "x best"}
    ratios = ", ".join(f"{race[key]:.3f} {label}" for key, label in names.items() if race[key] is not None)
    return f"{race['name']}: {speeds} TFLOP/s; {ratios or 'nothing to compare with'}"


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
    parser.add_argument("--quick", action="store_true", help="a small selection of the cases")
    parser.add_argument("--samples", type=int, default=100, help="random cases (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the random cases (default: 1)")
    parser.add_argument("--min-ratio", type=float, help="fail below this multiple of cuDNN's speed")
    arguments = parser.parse_args(argv)
    try:
        return validate(**vars(arguments), progress=lambda line: print(line, flush=True))
    except FarmError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"farm: error: {error}", file=sys.stderr)
        return FarmError.exit_code


if __name__ == "__main__":
    sys.exit(main())
