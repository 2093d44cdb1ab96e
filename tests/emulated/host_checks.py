"""The scenarios of `tests/kernels/host` as checks of a wheel's own libraries.

Left out are `new_operator_scenarios`, which need a library of their own, and of those with a real torch the
two that compile anew, a minute each in an emulator, and the one that measures memory, where it would count
the emulator's.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from kernels.build.pack import CODE_CUBIN, CODE_EXACT, CODE_PTX, PackRecord, read_pack
from kernels.build.payload import LIBRARY_NAMES, PACK_NAME
from tests.kernels.host import (
    append_operator_scenarios,
    append_scenarios,
    choice_scenarios,
    combine_operator_scenarios,
    combine_scenarios,
    general_scenarios,
    operator_scenarios,
    pack_scenarios,
    qkvpacked_operator_scenarios,
    scenarios,
    tile_scenarios,
)
from tests.kernels.host.append_api import APPEND
from tests.kernels.host.fake_driver import FakeDriver
from tests.kernels.host.host_api import COMBINE, KERNELS, LOCAL, OK, Api, fwd_args, pack_bytes
from tests.kernels.host.torch_double import run_operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUNTIME, OPERATORS = LIBRARY_NAMES
_SM_80, _SM_90, _LATER = 80, 90, 130
_CAPABILITIES = (_SM_80, 86, 87, 89, _SM_90, 100, 120, _LATER)
_IMAGE_BYTES = 128
"""Of a kernel's image, what the double of the driver keeps."""
_IN_TORCH = (
    *("schema", "errors_become_runtime_errors", "optional_tensors_arrive", "dtypes_arrive"),
    *("what_is_left_out_has_a_default", "packed_tensors_are_refused_by_name"),
)

Check = tuple[str, "Callable[[], object]"]


def runtime_checks(lib: Path, scratch: Path) -> Iterator[Check]:
    """Yield the checks of the runtime with the double of the driver, by name; `lib` holds the libraries."""
    modules = (
        *(scenarios, pack_scenarios, tile_scenarios),
        *(general_scenarios, choice_scenarios, combine_scenarios, append_scenarios),
    )
    for module in modules:
        for name, function in module.SCENARIOS.items():
            pack = scratch / f"{name}.fa3pack"
            pack.write_bytes(pack_bytes(KERNELS))
            yield name, partial(scenarios.run_scenario, function, str(lib / RUNTIME), str(pack))
    for capability in _CAPABILITIES:
        yield f"the_wheel_s_kernels_serve_sm_{capability}", partial(_serve, capability, lib)


def _serve(capability: int, lib: Path) -> None:
    """Launch attention from the wheel's own pack on a fake GPU."""
    records = {record.name: record for record in read_pack(lib / PACK_NAME)}
    api, fake = Api(lib / RUNTIME), FakeDriver()
    fake.setup(capability=capability)
    assert api.set_pack(lib / PACK_NAME) == (OK, "")
    assert api.kernel_count() == len(records)
    codes = {record.code for record in records.values() if record.op == "fwd" and _runs(record, capability)}
    assert codes, "the wheel has no kernel for this GPU"
    status, message = api.fwd(fwd_args(head_dim=64))
    assert status == OK, message
    record = records[fake.kernel(fake.last_launch)]
    assert record.code == min(codes)
    assert _runs(record, capability)
    held = bytes(fake.library.fake_image()[:_IMAGE_BYTES])
    assert held == record.image[:_IMAGE_BYTES]


def _runs(record: PackRecord, capability: int) -> bool:
    """Whether a kernel runs on a GPU, by CUDA's rules of compatibility."""
    same_major = record.sm // 10 == capability // 10
    return {
        CODE_EXACT: record.sm == capability,
        CODE_CUBIN: record.sm <= capability and same_major,
        CODE_PTX: record.sm <= capability,
    }[record.code]


def operator_checks(lib: Path, scratch: Path) -> Iterator[Check]:
    """Yield the checks of the operators with doubles of torch and of the driver, by name."""
    library = str(_with_made_pack(lib, scratch))
    modules = (
        *(operator_scenarios, combine_operator_scenarios, append_operator_scenarios),
        qkvpacked_operator_scenarios,
    )
    for module in modules:
        label = module.__name__.rpartition(".")[2].removesuffix("_scenarios")
        for name in module.SCENARIOS:
            yield f"{label}: {name}", partial(run_operator, name, library, module.SCENARIOS)


def torch_checks(lib: Path, scratch: Path) -> Iterator[Check]:
    """Yield the checks of the operators in a real torch, by name."""
    from tests.kernels.host import torch_scenarios  # noqa: PLC0415 - the other sections need no torch

    library = str(_with_made_pack(lib, scratch))
    for name in _IN_TORCH:
        yield name, partial(torch_scenarios.main, name, library)


def _with_made_pack(lib: Path, scratch: Path) -> Path:
    """The libraries beside a pack of made-up kernels, which the scenarios expect; returns the operators'."""
    for name in LIBRARY_NAMES:
        shutil.copy(lib / name, scratch)
    (scratch / PACK_NAME).write_bytes(
        pack_bytes((*KERNELS, LOCAL, replace(COMBINE, sm=90), replace(APPEND, sm=90)))
    )
    return scratch / OPERATORS
