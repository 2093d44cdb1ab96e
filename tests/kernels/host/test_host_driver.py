"""The runtime against a driver double: what it asks of CUDA, and what it does when CUDA refuses."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernels.build import host
from kernels.build.host import DEVICE_DIR, HOST_DIR, build_host
from tests.kernels.host import (
    append_scenarios,
    bwd_scenarios,
    choice_scenarios,
    combine_scenarios,
    decode_scenarios,
    general_scenarios,
    new_operator_scenarios,
    pack_scenarios,
    scenarios,
    tile_scenarios,
)
from tests.kernels.host.conftest import NATIVE_TARGET, VERSION
from tests.kernels.host.fake_driver import (
    BWD_BYTES,
    FWD_BYTES,
    AppendParams,
    BwdParams,
    CombineParams,
    DecodeParams,
    FwdParams,
)

if TYPE_CHECKING:
    from types import ModuleType

REPOSITORY = Path(__file__).parents[3]


def test_declarations_are_cuda_s_own(toolkits: Path, tmp_path: Path, compiler_cache: Path) -> None:
    """driver.h restates a little of cuda.h: constants, layouts and how each function takes its arguments."""
    include = [HOST_DIR, DEVICE_DIR, next(toolkits.glob("12.8*/nvidia/cuda_runtime/include"))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "c++", "-std=c++17", *(f"-I{folder}" for folder in include)),
            *("-c", str(Path(__file__).with_name("driver_abi.cpp")), "-o", str(tmp_path / "driver_abi.o")),
        ],
        env={"ZIG_GLOBAL_CACHE_DIR": str(compiler_cache), "ZIG_LOCAL_CACHE_DIR": str(compiler_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _structures(structure: type[ctypes.Structure]) -> set[type[ctypes.Structure]]:
    parts = {kind for _, kind, *_ in structure._fields_ if issubclass(kind, ctypes.Structure)}
    return {structure}.union(*(_structures(part) for part in parts))


@pytest.mark.parametrize(
    ("header", "parameters", "size"),
    [
        ("fwd", FwdParams, FWD_BYTES),
        ("bwd", BwdParams, BWD_BYTES),
        ("combine", CombineParams, ctypes.sizeof(CombineParams)),
        ("decode", DecodeParams, ctypes.sizeof(DecodeParams)),
        ("append", AppendParams, ctypes.sizeof(AppendParams)),
    ],
)
def test_the_parameters_are_the_kernels_own(
    header: str, parameters: type[ctypes.Structure], size: int, tmp_path: Path, compiler_cache: Path
) -> None:
    """The double's view of a structure, which scenarios read, holds every field where the header has it."""
    texts = "".join(path.read_text() for path in (DEVICE_DIR / "params").glob("*.h"))
    lines = [f'#include "params/{header}.h"', "#include <cstddef>"]
    lines.append(f"static_assert(sizeof(fa3::{parameters.__name__}) == {size});")
    for double in _structures(parameters):
        name = f"fa3::{double.__name__}"
        fields = [(field, getattr(double, field)) for field, *_ in double._fields_]
        lines += [f"static_assert(offsetof({name}, {field}) == {at.offset});" for field, at in fields]
        lines += [f"static_assert(sizeof({name}::{field}) == {at.size});" for field, at in fields]
        (body,) = re.findall(rf"struct {double.__name__} \{{(.*?)\n\}};", texts, re.DOTALL)
        assert re.findall(r"^    [\w:* ]+ (\w+);", body, re.MULTILINE) == [field for field, _ in fields]
    source = tmp_path / "params.cpp"
    source.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "c++", "-std=c++17", f"-I{DEVICE_DIR}"),
            *("-c", str(source), "-o", str(tmp_path / "params.o")),
        ],
        env={"ZIG_GLOBAL_CACHE_DIR": str(compiler_cache), "ZIG_LOCAL_CACHE_DIR": str(compiler_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module in (
            scenarios,
            pack_scenarios,
            tile_scenarios,
            general_scenarios,
            choice_scenarios,
            combine_scenarios,
            append_scenarios,
            bwd_scenarios,
            decode_scenarios,
        )
        for name in module.SCENARIOS
    ],
)
def test_scenario(
    module: ModuleType, name: str, libraries: Path, fake_driver_folder: Path, pack: Path
) -> None:
    run_in_process(module, name, libraries, fake_driver_folder, pack)


@pytest.fixture(scope="module")
def libraries_with_new_operator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries of a copy of the sources to which one file was added."""
    folder = tmp_path_factory.mktemp("new_operator")
    shutil.copytree(HOST_DIR, folder / "host")
    shutil.copy(Path(__file__).with_name("new_operator.cpp"), folder / "host" / "ops")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "HOST_DIR", folder / "host")
        build_host(NATIVE_TARGET, folder / "lib", VERSION)
    return folder / "lib"


@pytest.mark.parametrize("name", new_operator_scenarios.SCENARIOS)
def test_an_operator_is_added_as_a_file(
    name: str, libraries_with_new_operator: Path, fake_driver_folder: Path, pack: Path
) -> None:
    run_in_process(new_operator_scenarios, name, libraries_with_new_operator, fake_driver_folder, pack)


def run_in_process(
    module: ModuleType, name: str, libraries: Path, fake_driver_folder: Path, pack: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module.__name__, name, str(libraries / "libflash_attn3.so"), str(pack)],
        cwd=REPOSITORY,
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver_folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
