"""Import and command line of the package, each time in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from ci.project import ROOT
from flash_attn3 import __version__, _native
from kernels.table import VARIANTS

pytestmark = pytest.mark.slow
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def _python(site, *arguments, check=True, **variables):
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONWARNINGS": "error", **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment, capture_output=True, text=True, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_import_is_light(site):
    """At most 30 ms of an undisturbed processor over torch, no driver, no kernel pack, no checks."""
    program = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "import time, torch\n"
        "from tests.machine import slowness\n"
        "before = slowness()\n"
        "start = time.process_time()\n"
        "import flash_attn3\n"
        "taken = time.process_time() - start\n"
        "print(taken / ((before + slowness()) / 2))\n"
        "maps = open('/proc/self/maps').read()\n"
        "print([name for name in ('libcuda.so', 'kernels.fa3pack') if name in maps])\n"
        "print([name for name in sys.modules if name.startswith('flash_attn3.checks')])\n"
    )
    # The first run writes the bytecode that an installed package has.
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}
    runs = [_python(site, "-c", program, **bytecode).stdout.splitlines() for _ in range(5)]
    assert all(run[1:] == ["[]", "[]"] for run in runs)
    assert min(float(run[0]) for run in runs) < 0.030


@pytest.mark.parametrize("command", [[], ["selftest"]], ids=["", "selftest"])
def test_without_torch_the_command_says_what_is_missing(site, command, tmp_path):
    blocked = tmp_path / "torch"
    blocked.mkdir()
    (blocked / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    done = _python(site, "-m", "flash_attn3", *command, check=False, PYTHONPATH=f"{tmp_path}:{site}")
    assert done.returncode == 1
    assert done.stdout == ""
    reason = (
        f"flash_attn3 needs torch 2.9 or newer, which {sys.prefix} does not have: install torch there first"
    )
    assert done.stderr == f"cannot run here: {reason}\n"
    done = _python(site, "-c", "import flash_attn3", check=False, PYTHONPATH=f"{tmp_path}:{site}")
    assert done.stderr.splitlines()[-1] == f"ImportError: {reason}"


def test_a_checkout_without_its_library_says_so(site_copy):
    (site_copy / "flash_attn3" / "lib" / "libflash_attn3_torch.so").unlink()
    done = _python(site_copy, "-c", "import flash_attn3", check=False)
    assert done.returncode == 1
    assert "ImportError: flash_attn3: " in done.stderr
    assert "libflash_attn3_torch.so is not there" in done.stderr
    assert "pip install ." in done.stderr


def test_a_library_that_cannot_be_loaded_says_why(site_copy):
    (site_copy / "flash_attn3" / "lib" / "libflash_attn3_torch.so").write_bytes(b"not a library")
    done = _python(site_copy, "-c", "import flash_attn3", check=False)
    assert "ImportError: flash_attn3: libflash_attn3_torch.so cannot be loaded on Linux" in done.stderr
    assert "invalid ELF header" in done.stderr or "file too short" in done.stderr


def test_an_old_torch_is_named(site):
    program = "import torch; torch.__version__ = '2.8.1+cpu'; import flash_attn3"
    done = _python(site, "-c", program, check=False)
    assert "ImportError: flash_attn3 needs torch 2.9 or newer; this is torch 2.8.1+cpu" in done.stderr


def test_a_damaged_build_record_is_named(site_copy):
    (site_copy / "flash_attn3" / "build.json").write_text("{")
    done = _python(site_copy, "-c", "import flash_attn3", check=False)
    assert "build.json is no build record" in done.stderr


def _code(variant):
    if variant.code == "ptx":
        return "ptx"
    return "exact" if variant.sm.endswith("a") else "portable"


def _sm(variant):
    return int(variant.sm.rstrip("a"))


def test_the_kernels_are_those_of_the_table():
    found = {
        (k.name, k.op, k.mask, k.dtype_in, k.dtype_out, k.head_dim, k.head_dim_v, k.sm, k.code)
        for k in _native.kernels()
    }
    assert found == {
        (v.name, v.op, v.mask, v.dtype_in, v.dtype_out, v.head_dim, v.head_dim_v, _sm(v), _code(v))
        for v in VARIANTS
    }


def test_the_library_has_the_version_of_the_package():
    assert _native.version() == __version__


@NO_GPU
def test_without_a_gpu_it_says_why_it_cannot_run(site):
    done = _python(site, "-m", "flash_attn3", check=False)
    assert done.returncode == 1
    assert f"flash_attn3 {__version__}" in done.stdout
    for head_dim in ("64", "96", "128", "192/128", "192", "256"):
        line = f"fwd sm_90a head_dim {head_dim}: bf16, fp16; causal, full, local (CUDA 12.8)"
        assert line in done.stdout
    assert "cannot run here: " in done.stdout


@NO_GPU
def test_json_says_the_same(site):
    done = _python(site, "-m", "flash_attn3", "--json", check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["can_run"] is False
    assert document["version"] == document["library_version"] == __version__
    assert {kernel["name"] for kernel in document["kernels"]} == {variant.name for variant in VARIANTS}
    assert document["gpus"] == []
    assert document["reason"]


@NO_GPU
def test_selftest_cannot_judge_without_a_gpu(site):
    done = _python(site, "-m", "flash_attn3", "selftest", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("selftest: cannot judge: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_truncated_pack_is_the_reason(site_copy):
    pack = site_copy / "flash_attn3" / "lib" / "kernels.fa3pack"
    pack.write_bytes(pack.read_bytes()[:-1])
    done = _python(site_copy, "-m", "flash_attn3", "--json", check=False)
    assert done.returncode == 1
    assert "kernels.fa3pack" in json.loads(done.stdout)["reason"]


def test_the_checks_describe_the_machine_without_a_gpu(site):
    done = _python(site, "-m", "flash_attn3.checks", "environment")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["environment", "end"]
    assert events[0]["environment"]["torch"] == torch.__version__


@NO_GPU
def test_a_section_of_checks_refuses_without_a_gpu(site):
    done = _python(site, "-m", "flash_attn3.checks", "correctness", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no GPU: ")
