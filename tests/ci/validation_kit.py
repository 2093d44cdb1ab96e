"""Wheels whose checks emit the events that a test needs, and reports of validations."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any

from ci.gpu_side.report_file import SCHEMA_VERSION, write_report
from ci.gpu_side.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECTIONS = ("correctness", "memory", "behaviour", "host_time", "race")
"""Those that a test may give code for, in the order in which they run."""
OPERATORS = {
    "correctness": {"op": "fwd", "categories": ["plain", "layout"]},
    "combine": {"op": "combine", "categories": ["plain"]},
}
KERNEL = "fwd_sm90_bf16_d128_full"
WHEEL_NAME = "flash_attn3-0.1.0-py3-none-any.whl"
ENVIRONMENT: dict[str, Any] = {
    "package_version": "0.1.0",
    "kernels": {KERNEL: "12.8"},
    "gpu": "NVIDIA H200",
    "compute_capability": "9.0",
    "multiprocessors": 132,
    "gpu_memory_bytes": 150_000_000_000,
    "gpu_count": 1,
    "driver": "580.10",
    "torch": "2.11.0+cu130",
    "torch_cuda": "13.0",
    "cudnn": 91900,
    "python": "3.12.3",
    "platform": "linux x86_64",
}
CASE: dict[str, Any] = {
    "section": "correctness",
    "name": "bf16_d128_full-b1_h1x1_s65x129",
    "category": "plain",
    "params": {"dtype": "bf16", "softmax_scale": None, "kernels": "exact", "kernel": KERNEL},
    "figures": {"max_error": 0.001, "max_error_limit": 0.004, "lse_error": None},
    "failures": [],
    "passed": True,
}
ROW: dict[str, Any] = {
    "section": "correctness",
    "category": "plain",
    "code": "exact",
    "kernel": KERNEL,
    "passed": 1,
    "failed": 0,
    "error_ratio": 0.25,
    "worst_ratio": 0.25,
    "worst": CASE["name"],
}
"""The row that counts CASE."""
RACE: dict[str, Any] = {
    "name": "bf16_d128_full_s4096",
    "setting": {"dtype": "bf16", "head_dim": 128, "causal": False, "seqlen": 4096, "batch": 4, "heads": 16},
    "rounds": 21,
    "timings": [
        {
            "provider": provider,
            "ms": 0.8,
            "ms_quartile_low": 0.79,
            "ms_quartile_high": 0.81,
            "tflops": tflops,
            "calls_per_round": 10,
        }
        for provider, tflops in (("flash_attn3", 690.5), ("cudnn", 610.0))
    ],
    "ratio_to_cudnn": 1.13,
    "ratio_to_flash": None,
    "multiple_of_best": 0.99,
    "state": {"sm_clock_mhz": 1500, "power_watts": 690.0, "temperature_celsius": None},
    "absent": {"flash": "no"},
    "failures": [],
    "passed": True,
}
HOST_TIME: dict[str, Any] = {
    "provider": "flash_attn3",
    "us": 12.5,
    "us_quartile_low": 12.0,
    "us_quartile_high": 13.0,
    "absent": "",
}


def tallied(*outcomes: Mapping[str, Any], races: int = 1) -> dict[str, Any]:
    """The fields of a report that hold these outcomes, beside races that passed."""
    tally = Tally()
    for outcome in outcomes:
        tally.add(dict(outcome))
    rows = list(tally.rows())
    proven = any(row["section"] in OPERATORS for row in rows)
    return {
        "cases": rows,
        "outcomes": tally.outcomes,
        "totals": {"cases": tally.count, "races": races, "failed": tally.failed},
        "passed": proven and not tally.failed,
    }


def failed(result: Mapping[str, Any], failure: str) -> dict[str, Any]:
    return {**result, "failures": [failure], "passed": False}


def document(**changes: Any) -> dict[str, Any]:
    """A report without its digest."""
    return {
        "schema_version": SCHEMA_VERSION,
        "wheel_filename": WHEEL_NAME,
        "wheel_sha256": "a" * 64,
        "wheel_size": 1234,
        "started": "2026-11-22T09:00:00+00:00",
        "finished": "2026-11-22T09:05:00+00:00",
        "quick": False,
        "samples": 100,
        "seed": 1,
        "min_ratio": None,
        **ENVIRONMENT,
        "sections": SECTIONS,
        "operators": OPERATORS,
        "cases": [ROW],
        "outcomes": [],
        "races": [RACE],
        "host_times": [HOST_TIME],
        "totals": {"cases": 1, "races": 1, "failed": 0},
        "passed": True,
        **changes,
    }


def write(path: Path, **changes: Any) -> Path:
    write_report(path, document(**changes))
    return path


def make_wheel(folder: Path, sections: Mapping[str, str]) -> Path:
    """Write a wheel whose `python -m flash_attn3.checks SECTION` runs the given code, which may call `emit`.

    Its environment lists the given sections only: each section is a process, which takes a second to start.
    """
    assert sections.keys() <= {"environment", *SECTIONS}
    listed = [name for name in SECTIONS if name in sections]
    program = (
        "import json, os, sys, flash_attn3\n"
        "def emit(event, **fields):\n"
        "    print(json.dumps({'event': event, **fields}), flush=True)\n"
        f"sections = {listed!r}\n"
        f"code = {dict(sections)!r}.get(sys.argv[1], '')\n"
        "exec(code)\n"
        "emit('end')\n"
    )
    files = {
        "flash_attn3/__init__.py": "",
        "flash_attn3/checks/__init__.py": "",
        "flash_attn3/checks/__main__.py": program,
        "flash_attn3-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: flash-attn3\nVersion: 0.1.0\n",
        "flash_attn3-0.1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}\n"
        for name, text in files.items()
    )
    files["flash_attn3-0.1.0.dist-info/RECORD"] = record + "flash_attn3-0.1.0.dist-info/RECORD,,\n"
    wheel = folder / WHEEL_NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def emit_environment(**changes: Any) -> str:
    """The `environment` section."""
    environment = {**ENVIRONMENT, **changes}
    return (
        "from pathlib import Path\n"
        f"environment = json.loads({json.dumps(environment)!r})\n"
        "environment.setdefault('package_folder', str(Path(flash_attn3.__file__).parent))\n"
        f"emit('environment', environment=environment, sections=sections, operators={OPERATORS!r})\n"
    )


def emit_case(case: Mapping[str, Any] = CASE) -> str:
    """One outcome."""
    return (
        f"case = json.loads({json.dumps(case)!r})\n"
        "emit('start', section=case['section'], name=case['name'])\n"
        "emit('outcome', outcome=case)\n"
    )
