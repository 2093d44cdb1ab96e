"""Exported programs, and packages that AOTInductor builds of them, which run without Python's code."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

from flash_attn3 import flash_attn_combine, flash_attn_func, flash_attn_varlen_func

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


class _Dense(torch.nn.Module):
    def forward(self, q, k, v):
        plain = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
        windowed = flash_attn_func(q, k, v, window_size=(100, 0), softcap=20.0, return_attn_probs=True)
        return *plain, *windowed


class _Varlen(torch.nn.Module):
    def forward(self, q, k, v, starts, sink):
        return flash_attn_varlen_func(
            *(q, k, v, starts, starts, 128, 128), causal=True, s_aux=sink, return_attn_probs=True
        )


class _Combine(torch.nn.Module):
    def forward(self, out_partial, lse_partial):
        return flash_attn_combine(out_partial, lse_partial, out_dtype=torch.bfloat16)


def _dense(device, batch=2, seqlen_q=200, seqlen_k=300):
    q = torch.randn(batch, seqlen_q, 4, 128, device=device, dtype=torch.bfloat16)
    k, v = (torch.randn(batch, seqlen_k, 2, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
    return q, k, v


def _packed(device, lengths=(100, 0, 37)):
    total = sum(lengths)
    q = torch.randn(total, 4, 128, device=device, dtype=torch.bfloat16)
    k, v = (torch.randn(total, 2, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
    starts = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    return q, k, v, starts, torch.randn(4, device=device)


def _partials(device, rows=50):
    return torch.randn(3, rows, 4, 64, device=device), torch.randn(3, 4, rows, device=device).transpose(1, 2)


def _export_dense(device):
    batch, seqlen_q, seqlen_k = (torch.export.Dim(name) for name in ("batch", "seqlen_q", "seqlen_k"))
    shapes = ({0: batch, 1: seqlen_q}, {0: batch, 1: seqlen_k}, {0: batch, 1: seqlen_k})
    program = torch.export.export(_Dense(), _dense(device), dynamic_shapes=shapes)
    return program, _Dense(), (_dense(device), _dense(device, 3, 33, 65))


def _export_varlen(device):
    total, ends = torch.export.Dim("total"), torch.export.Dim("ends")
    shapes = ({0: total}, {0: total}, {0: total}, {0: ends}, {})
    program = torch.export.export(_Varlen(), _packed(device), dynamic_shapes=shapes)
    return program, _Varlen(), (_packed(device), _packed(device, (5, 128, 1, 64)))


def _export_combine(device):
    rows = torch.export.Dim("rows")
    program = torch.export.export(_Combine(), _partials(device), dynamic_shapes=({1: rows}, {1: rows}))
    return program, _Combine(), (_partials(device), _partials(device, 7))


EXPORTS = {"dense": _export_dense, "varlen": _export_varlen, "combine": _export_combine}


def _assert_same(run, module, calls):
    for inputs in calls:
        for found, expected in zip(run(*inputs), module(*inputs), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", EXPORTS)
def test_exported_is_eager(device, name):
    program, module, calls = EXPORTS[name](device)
    _assert_same(program.module(), module, calls)


def _lack():
    """What AOTInductor needs here and does not find; empty when it can build."""
    compiler = shutil.which("nvcc")
    toolkit = os.environ.get("CUDA_HOME") or (compiler and Path(compiler).resolve().parents[1])
    if shutil.which("g++") is None:
        return "a C++ compiler: there is no g++"
    if not toolkit or not (Path(toolkit) / "include" / "cuda_runtime_api.h").is_file():
        return "the headers of a CUDA toolkit: neither CUDA_HOME nor nvcc leads to any"
    return "" if importlib.util.find_spec("setuptools") else "setuptools"


def _run_package(name, folder):
    """Build a package, load it and compare its results."""
    program, module, calls = EXPORTS[name](torch.device("cuda", 0))
    path = str(Path(folder) / f"{name}.pt2")
    package = torch._inductor.aoti_compile_and_package(program, package_path=path)
    _assert_same(torch._inductor.aoti_load_package(package), module, calls)


@pytest.mark.skipif(bool(_lack()), reason=f"AOTInductor needs {_lack()}")
@pytest.mark.parametrize("name", EXPORTS)
def test_a_package_of_aot_inductor_is_eager(name, tmp_path):
    """In a process of its own: native code is loaded, and a crash in it should fail one test, not end all."""
    done = subprocess.run(
        [sys.executable, __file__, name, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-4000:]}"


if __name__ == "__main__":
    _run_package(*sys.argv[1:])
