"""What ``python -m flash_attn3`` says of GPUs, which are made up here."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from flash_attn3 import _native
from flash_attn3._build import Build
from flash_attn3._installation import format_installation, inspect_installation
from flash_attn3._native import Kernel, NativeError, Status

KERNELS = (
    Kernel("a", "fwd", "full", "12.8", 90, "bf16", "bf16", 128, 128, "exact"),
    Kernel("b", "fwd", "any", "12.8", 80, "bf16", "bf16", 128, 128, "portable"),
    Kernel("c", "fwd", "any", "12.8", 86, "bf16", "bf16", 128, 128, "portable"),
    Kernel("d", "fwd", "any", "12.8", 80, "fp16", "fp16", 128, 128, "ptx"),
    Kernel("e", "combine", "any", "12.8", 80, "fp32", "any", 0, 0, "portable"),
    Kernel("f", "combine", "any", "12.8", 90, "fp32", "any", 0, 0, "portable"),
)
OPERATORS = ("fwd", "combine", "bwd")  # of those that are listed; others may stand between them


@pytest.fixture
def machine(monkeypatch):
    """A machine with GPUs of these compute capabilities."""

    def make(*capabilities, kernels=KERNELS):
        def require_device(device, op=None):
            major, minor = capabilities[device]
            if not any(k.op == op and k.runs_on(10 * major + minor) for k in kernels):
                raise NativeError(Status.UNSUPPORTED, f"no {op} kernel for sm_{major}{minor}")

        def properties(device):
            major, minor = capabilities[device]
            return SimpleNamespace(name=f"GPU {device}", major=major, minor=minor)

        monkeypatch.setattr(_native, "kernels", lambda: kernels)
        monkeypatch.setattr(_native, "driver", lambda: ("13.0", len(capabilities)))
        monkeypatch.setattr(_native, "require_device", require_device)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        return inspect_installation()

    return make


@pytest.mark.parametrize(
    ("capability", "line"),
    [
        ((9, 0), "fwd: exact sm_90a; combine: portable sm_90; bwd: no kernel yet"),
        ((8, 6), "fwd: portable sm_86; combine: portable sm_80; bwd: no kernel yet"),
        ((8, 0), "fwd: portable sm_80; combine: portable sm_80; bwd: no kernel yet"),
        ((12, 0), "fwd: ptx compute_80; combine: no combine kernel for sm_120; bwd: no kernel yet"),
    ],
)
def test_each_operator_is_listed_with_what_the_gpu_gets(machine, capability, line):
    found = machine(capability)
    text = format_installation(found)
    name = f"  GPU 0 (sm_{capability[0]}{capability[1]}): "
    (listed,) = (row.removeprefix(name) for row in text.splitlines() if row.startswith(name))
    served = [part for part in listed.split("; ") if part.split(": ")[0] in OPERATORS]
    assert "; ".join(served) == line
    assert listed.startswith(served[0]), "forward comes first"
    assert text.endswith("\ncan run here")
    assert found.as_dict()["can_run"] is True


def test_a_gpu_without_a_forward_kernel_cannot_run(machine):
    found = machine((7, 5))
    assert found.reason == "no fwd kernel for sm_75"
    assert format_installation(found).endswith("\ncannot run here: no fwd kernel for sm_75")


def test_one_gpu_that_can_run_is_enough(machine):
    found = machine((7, 5), (9, 0))
    assert [bool(gpu.refusal) for gpu in found.gpus] == [True, False]
    assert found.reason == ""


def test_no_gpu_is_the_reason(machine):
    assert machine().reason == "torch sees no GPU"


def test_json_says_it_for_each_operator(machine):
    (gpu,) = json.loads(json.dumps(machine((9, 0)).as_dict()))["gpus"]
    assert (gpu["name"], gpu["compute_capability"], gpu["refusal"]) == ("GPU 0", "9.0", "")
    assert [served for served in gpu["operators"] if served["op"] in OPERATORS] == [
        {"op": "fwd", "code": "exact", "target": "sm_90a", "refusal": ""},
        {"op": "combine", "code": "portable", "target": "sm_90", "refusal": ""},
        {"op": "bwd", "code": "", "target": "", "refusal": "no kernel yet"},
    ]


@pytest.mark.parametrize(
    ("version", "agrees"), [("0.1.0", True), ("0.1.0+trial.k462c0d0b", True), ("0.2.0", False)]
)
def test_the_library_is_of_the_release_of_the_package(machine, monkeypatch, version, agrees):
    """A trial has the libraries of its release."""
    build = Build(version, "5" * 64, "manylinux_2_17_x86_64", ())
    monkeypatch.setattr("flash_attn3._installation.read_build", lambda: build)
    monkeypatch.setattr(_native, "version", lambda: "0.1.0")
    found = machine((9, 0))
    assert (found.version, found.library_version) == (version, "0.1.0")
    assert ("reinstall it" in found.reason) == (not agrees)
