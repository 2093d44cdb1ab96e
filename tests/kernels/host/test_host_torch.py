"""The operator library: in a real torch on CPU tensors, and against doubles for what needs CUDA tensors."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.version import Version

from kernels.build.host import HOST_DIR, TORCH
from tests.kernels.host import (
    append_operator_scenarios,
    combine_operator_scenarios,
    decode_operator_scenarios,
    operator_scenarios,
    qkvpacked_operator_scenarios,
)
from tests.kernels.host.append_api import APPEND
from tests.kernels.host.host_api import COMBINE, KERNELS, LOCAL, pack_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]
TORCH_SPEC = importlib.util.find_spec("torch")
needs_torch = pytest.mark.skipif(TORCH_SPEC is None, reason="torch is not installed")
SHIM = sorted(set(re.findall(r"\b((?:aoti_)?torch_\w+)\(", (HOST_DIR / "torch/shim.h").read_text())))
# Declared weak: absent from an older torch.
SINCE_2_13 = {"torch_delete_stable_ivalue", "torch_exception_get_what_without_backtrace"}


def run(module: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.host.{module}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def installed(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator library as a wheel installs it: beside the runtime and a pack."""
    folder = tmp_path_factory.mktemp("installed")
    for path in libraries.iterdir():
        shutil.copy(path, folder)
    (folder / "kernels.fa3pack").write_bytes(
        pack_bytes((*KERNELS, LOCAL, replace(COMBINE, sm=90), replace(APPEND, sm=90)))
    )
    return folder / TORCH.name


@pytest.fixture(scope="module")
def doubles(compile_double: Callable[..., Path], fake_driver_folder: Path) -> str:
    """Library path with doubles of libtorch_cpu.so, libtorch_cuda.so and libcuda.so.1."""
    torch = compile_double("fake_torch.c", "libtorch_cpu.so").parent
    torch_cuda = compile_double("fake_torch_cuda.c", "libtorch_cuda.so").parent
    return os.pathsep.join(map(str, (torch, torch_cuda, fake_driver_folder)))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module.__name__.rpartition(".")[2], name)
        for module in (
            operator_scenarios,
            combine_operator_scenarios,
            append_operator_scenarios,
            decode_operator_scenarios,
            qkvpacked_operator_scenarios,
        )
        for name in module.SCENARIOS
    ],
)
def test_operator(module: str, name: str, installed: Path, doubles: str) -> None:
    run(module, name, str(installed), LD_LIBRARY_PATH=doubles)


def test_operator_in_a_torch_before_2_13(
    installed: Path, compile_double: Callable[..., Path], doubles: str
) -> None:
    """It has no function that frees the box of an optional argument."""
    old = compile_double("fake_torch.c", "libtorch_cpu.so", "-DOLD_TORCH").parent
    paths = os.pathsep.join((str(old), doubles))
    run("operator_scenarios", "every_argument_arrives", str(installed), LD_LIBRARY_PATH=paths)


@needs_torch
@pytest.mark.parametrize(
    "name",
    [
        "schema",
        "errors_become_runtime_errors",
        "optional_tensors_arrive",
        "dtypes_arrive",
        "what_is_left_out_has_a_default",
        "errors_leave_nothing_behind",
        "packed_tensors_are_refused_by_name",
        "a_fake_kernel_makes_it_traceable",
        "lengths_are_compiled_once",
    ],
)
def test_in_torch(name: str, installed: Path) -> None:
    run("torch_scenarios", name, str(installed))


@needs_torch
def test_shim_functions_exist_in_torch(installed: Path) -> None:
    run("torch_scenarios", "every_shim_function_exists", str(installed), *sorted(set(SHIM) - SINCE_2_13))


@needs_torch
def test_shim_declarations_are_torch_s_own(tmp_path: Path, compiler_cache: Path) -> None:
    """A C function declared twice with different types does not compile, nor does one unknown to torch."""
    assert TORCH_SPEC is not None
    assert TORCH_SPEC.origin is not None
    include = Path(TORCH_SPEC.origin).parent / "include"
    knows_all = Version(importlib.metadata.version("torch")) >= Version("2.13")
    names = [name for name in SHIM if knows_all or name not in SINCE_2_13]
    source = tmp_path / "declarations.cpp"
    source.write_text(
        "#define USE_CUDA\n"
        "#include <torch/csrc/inductor/aoti_torch/c/shim.h>\n"
        + "#include <torch/csrc/stable/c/shim.h>\n" * knows_all
        + "".join(f"static_assert(sizeof(&{name}) == sizeof(void*));\n" for name in names)
        + "static_assert(std::is_same_v<decltype(&aoti_torch_get_current_cuda_stream),\n"
        "                             AOTITorchError (*)(int32_t, void**)>);\n"
        f'#include "{HOST_DIR / "torch/shim.h"}"\n'
    )
    arguments = ("-std=c++20", "-c", str(source), "-o", str(tmp_path / "declarations.o"), f"-I{include}")
    command = [sys.executable, "-m", "ziglang", "c++", *arguments]
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(compiler_cache), "ZIG_LOCAL_CACHE_DIR": str(compiler_cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
