"""Small wheels that can be installed, and records of a manifest, for the tests of the index."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import zipfile
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ci.gpu_side.report_file import SCHEMA_VERSION, write_report
from ci.gpu_side.tally import Tally
from ci.proof.emulation import SECTIONS as SUITE
from ci.proof.evidence import Policy
from index_site.manifest import (
    Audit,
    Build,
    GpuSupport,
    Manifest,
    OperatorBuild,
    Support,
    Wheel,
    sort_wheels,
    timestamp,
)
from index_site.proofs import Emulation, Proof
from kernels.build.payload import PACK_NAME
from matrix.block import Block

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=timezone.utc)
LATER = datetime(2026, 12, 6, 9, 0, tzinfo=timezone.utc)
PLATFORM_TAG = f"manylinux_2_17_{platform.machine()}"
BUILD: dict[str, Any] = {
    "version": "0.1.0",
    "content_digest": "5" * 64,
    "platform": "linux_x86_64",
    "toolkits": {
        f"fwd_sm90_{dtype}_d128_{mask}": "12.8" for dtype in ("bf16", "fp16") for mask in ("causal", "full")
    },
    "kernels": [
        {
            "name": f"fwd_sm90_{dtype}_d128_{mask}",
            "op": "fwd",
            "sm": "90a",
            "code": "cubin",
            "dtype_in": dtype,
            "head_dim": 128,
            "head_dim_v": 128,
            "mask": mask,
        }
        for dtype in ("bf16", "fp16")
        for mask in ("causal", "full")
    ],
}


TRUSTING = Policy(trust_unsigned=True)
"""The policy of a site that vouches for the reports of :func:`report`, which are not signed."""
SECTIONS = {
    "fwd": "correctness",
    "bwd": "gradients",
    "combine": "combine",
    "append": "append",
    "decode": "decode",
}
"""Operator -> the section of its cases."""
SUPPORT = Support(
    cells=(
        Block(
            platform=("linux_x86_64",),
            torch=("2.9", "2.15"),
            cuda=("cu130",),
            python=("3.11", "3.13"),
            sm=("80", "90", "newer"),
        ),
    ),
    gpus=(
        GpuSupport(sm="80", gpus="A100, A30", operators={"fwd": "portable", "combine": "portable"}),
        GpuSupport(sm="90", gpus="H100, H200, GH200", operators={"fwd": "exact", "combine": "portable"}),
        GpuSupport(sm="newer", gpus="GPUs of later architectures", operators={"fwd": "ptx", "combine": None}),
    ),
)
"""What the wheels of :func:`manifest_wheel` serve."""


def write_wheel(
    folder: Path, *, name: str, members: Mapping[str, bytes], record: bytes | None = None
) -> Path:
    """Zip members into a wheel, with a correct RECORD unless another one is given."""
    info = "-".join(name.split("-")[:2]) + ".dist-info"
    rows = "".join(f"{member},{_hash(data)},{len(data)}\n" for member, data in members.items())
    listing = (rows + f"{info}/RECORD,,\n").encode() if record is None else record
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**members, f"{info}/RECORD": listing}.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 2, 2, 0, 0, 0)), data)
    return path


def flash_members(
    *,
    version: str = "0.1.0",
    requires: str = "torch>=2.9",
    build: dict[str, Any] | None = None,
    note: str = "",
    pack: bytes | None = None,
) -> dict[str, bytes]:
    """The members of a small flash_attn3 wheel; ``note`` makes its bytes differ; ``pack`` has its kernels."""
    info = f"flash_attn3-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.4\nName: flash-attn3\nVersion: {version}\nRequires-Python: >=3.10\n"
        f"Requires-Dist: {requires}\n\nA small wheel.\n"
    )
    wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: py3-none-{PLATFORM_TAG}\n"
    return {
        "flash_attn3/__init__.py": f'import torch\n\n__version__ = "{version}"\n# {note}\n'.encode(),
        "flash_attn3/build.json": json.dumps({**(build or BUILD), "version": version}).encode(),
        **({} if pack is None else {f"flash_attn3/lib/{PACK_NAME}": pack}),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel.encode(),
    }


def flash_wheel(
    folder: Path,
    *,
    version: str = "0.1.0",
    note: str = "",
    platform_tag: str = PLATFORM_TAG,
    pack: bytes | None = None,
) -> Path:
    """A small flash_attn3 wheel, for this machine unless another platform is given."""
    name = f"flash_attn3-{version}-py3-none-{platform_tag}.whl"
    return write_wheel(folder, name=name, members=flash_members(version=version, note=note, pack=pack))


def torch_folder(folder: Path, *, version: str = "2.9.0") -> Path:
    """A folder laid out like a site-packages in which a distribution called torch is installed."""
    info = folder / f"torch-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: torch\nVersion: {version}\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "INSTALLER").write_text("pip\n")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    record = (
        f"torch/__init__.py,,\ntorch-{version}.dist-info/METADATA,,\ntorch-{version}.dist-info/RECORD,,\n"
    )
    (info / "RECORD").write_text(record)
    return folder


def manifest_wheel(version: str, **fields: Any) -> Wheel:
    """The record of a wheel without a file; one on stable has a proof. ``pack`` is its ``pack_sha256``."""
    filename = f"flash_attn3-{version}-py3-none-{fields.pop('platform', PLATFORM_TAG)}.whl"
    proofs = (proof(filename),) if fields.get("channel") == "stable" else ()
    pack = fields.pop("pack", None)
    defaults: dict[str, Any] = {
        "filename": filename,
        "sha256": hashlib.sha256(filename.encode()).hexdigest(),
        "size": 1_843_200,
        "metadata_sha256": hashlib.sha256(version.encode()).hexdigest(),
        "project": "flash-attn3",
        "version": version,
        "tags": (f"py3-none-{PLATFORM_TAG}",),
        "requires_python": ">=3.10",
        "requires_dist": ("torch>=2.9",),
        "channel": "candidate",
        "channel_reason": "" if proofs else "no GPU has validated it",
        "upload_time": timestamp(NOW),
        "yanked": None,
        "faults": (),
        "proofs": proofs,
        "audit": Audit(checks_passed=14, failures=()),
        "build": Build(
            content_digest="5" * 64,
            pack_sha256=pack,
            toolkits={"12.8": tuple(sorted(BUILD["toolkits"]))},
            operators={
                "fwd": OperatorBuild(
                    sms=("90a",), dtypes=("bf16", "fp16"), head_dims=(128,), masks=("causal", "full")
                ),
                "combine": OperatorBuild(sms=("80",), dtypes=("fp32",), head_dims=(), masks=()),
            },
        ),
        "support": SUPPORT.key,
    }
    return Wheel(**{**defaults, **fields})


def emulated_wheel(version: str, **fields: Any) -> Wheel:
    """The record of a wheel for aarch64 without a file, which is stable by an emulation."""
    digest = hashlib.sha256(version.encode()).hexdigest()
    run = Emulation(
        path=f"reports/{digest}.json",
        sha256=digest,
        passed=True,
        quick=False,
        failure="",
        gap="",
        voucher="signature",
        signed_by="release",
        emulator="qemu-aarch64 version 7.2.22",
        machine="aarch64",
        python="3.11.2",
        torch="2.9.1+cpu",
        checks_passed=130,
        checks_total=130,
    )
    emulated: dict[str, Any] = {
        "channel": "stable",
        "channel_reason": "",
        "platform": "manylinux_2_28_aarch64",
        "proofs": (),
        "emulations": (run,),
    }
    return manifest_wheel(version, **emulated | fields)


def site_manifest(*wheels: Wheel, **fields: Any) -> Manifest:
    """The manifest of records of :func:`manifest_wheel`, in any order."""
    supports = {SUPPORT.key: SUPPORT} if wheels else {}
    return Manifest(wheels=sort_wheels(wheels), supports=supports, **fields)


def proof(of: str, *, passed: bool = True, gpu: str = "NVIDIA H200") -> Proof:
    """The summary of a validation report; other texts ``of`` give other summaries."""
    digest = hashlib.sha256(f"{of} {gpu} {passed}".encode()).hexdigest()
    return Proof(
        path=f"reports/{digest}.json",
        sha256=digest,
        passed=passed,
        quick=False,
        failure="" if passed else "mha_d128_s4097: error 0.02 is above the limit 0.01",
        gap="",
        voucher="signature",
        signed_by="release",
        gpu=gpu,
        driver="580.95.05",
        torch="2.13.0+cu130",
        cases_passed=418 if passed else 416,
        cases_total=418,
        worst_error_ratio=0.41,
        races={
            f"bf16_d128_{mask}_s{seqlen}": 0.97 + seqlen / 1e5
            for mask in ("causal", "full")
            for seqlen in (4096, 16384)
        },
        tflops={
            f"bf16_d128_{mask}_s{seqlen}": 612.0 for mask in ("causal", "full") for seqlen in (4096, 16384)
        },
        sm="90",
        proven={},
    )


def report(
    path: Path,
    wheel: Path,
    *,
    failures: tuple[str, ...] = (),
    quick: bool = False,
    gpu: str = "NVIDIA H200",
    cases: int = 1,
) -> Path:
    """Write a validation report of a wheel, in the format of validate, that ran each of its kernels.

    The case of the first kernel has ``failures``.
    """
    tally = Tally()
    for kernel in _kernels(wheel):
        found = list(failures) if tally.count == 0 else []
        case = {
            "section": SECTIONS[kernel["op"]],
            "name": "mha_d128_s4097",
            "category": "plain",
            "params": {"seqlen_q": 4097, "kernels": "exact", "kernel": kernel["name"]},
            "figures": {"max_error": 0.004, "max_error_limit": 0.01},
            "failures": found,
            "passed": not found,
        }
        for _ in range(cases):
            tally.add(case)
    timing = {
        "ms": 1.0,
        "ms_quartile_low": 0.9,
        "ms_quartile_high": 1.1,
        "tflops": 600.0,
        "calls_per_round": 8,
    }
    race = {
        "name": "bf16_d128_causal_s4096",
        "setting": {
            "dtype": "bf16",
            "head_dim": 128,
            "causal": True,
            "seqlen": 4096,
            "batch": 4,
            "heads": 16,
        },
        "rounds": 9,
        "timings": [{"provider": provider, **timing} for provider in ("flash_attn3", "cudnn")],
        "ratio_to_cudnn": 1.08,
        "ratio_to_flash": None,
        "multiple_of_best": 0.97,
        "state": {"sm_clock_mhz": 1980, "power_watts": 680.5, "temperature_celsius": 61},
        "absent": {"flash": "not built"},
        "failures": [],
        "passed": True,
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "wheel_filename": wheel.name,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel_size": wheel.stat().st_size,
        "started": "2026-11-22T08:00:00Z",
        "finished": "2026-11-22T08:05:00Z",
        "quick": quick,
        "samples": 100,
        "seed": 1,
        "min_ratio": None,
        "package_version": "0.1.0",
        "kernels": dict.fromkeys(BUILD["toolkits"], "12.8"),
        "gpu": gpu,
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "gpu_memory_bytes": 150_000_000_000,
        "gpu_count": 1,
        "driver": "580.95.05",
        "torch": "2.13.0+cu130",
        "torch_cuda": "13.0",
        "cudnn": 91400,
        "python": "3.12.3",
        "platform": "Linux-6.8-x86_64",
        "sections": ["correctness", "race"],
        "operators": {section: {"op": op, "categories": ["plain"]} for op, section in SECTIONS.items()},
        "cases": list(tally.rows()),
        "outcomes": tally.outcomes,
        "races": [race],
        "host_times": [],
        "totals": {"cases": tally.count, "races": 1, "failed": tally.failed},
        "passed": not failures,
    }
    write_report(path, document)
    return path


def emulation_report(path: Path, wheel: Path, *, failure: str = "", **changes: Any) -> Path:
    """Write an emulation report of a wheel, in the format of emulate, with a check of each section.

    The check of the runtime has the ``failure``; ``changes`` are of other fields.
    """
    checks = [
        {
            "section": section,
            "name": "launch_carries_the_problem" if section == "runtime" else "it_loads",
            "seconds": 0.5,
            "failure": failure if section == "runtime" else "",
        }
        for section in SUITE
    ]
    failed = sum(bool(check["failure"]) for check in checks)
    document = {
        "schema_version": 1,
        "kind": "emulation",
        "wheel_filename": wheel.name,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel_size": wheel.stat().st_size,
        "platform": "linux_aarch64",
        "started": "2026-11-22T08:00:00Z",
        "finished": "2026-11-22T08:05:00Z",
        "quick": False,
        "emulator": "qemu-aarch64 version 7.2.22",
        "machine": "aarch64",
        "libc": "glibc 2.36",
        "python": "3.11.2",
        "torch": "2.9.1+cpu",
        "checks": checks,
        "checks_passed": len(checks) - failed,
        "checks_failed": failed,
        "passed": not failed,
        **changes,
    }
    write_report(path, document)
    return path


def _kernels(wheel: Path) -> list[dict[str, Any]]:
    """Return the kernels that the build.json of a wheel lists."""
    with zipfile.ZipFile(wheel) as archive:
        kernels: list[dict[str, Any]] = json.loads(archive.read("flash_attn3/build.json"))["kernels"]
    return kernels


def _hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
