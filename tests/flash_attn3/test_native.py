"""The ctypes mirror of the C ABI: layouts against the headers, and what needs neither driver nor GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from flash_attn3 import _native
from flash_attn3._native import pack
from flash_attn3._native.append import AppendArgs, Rotary, append_kernel
from flash_attn3._native.combine import CombineArgs, combine_kernel
from flash_attn3._native.pack import KernelInfo
from tests.flash_attn3.installed import REPOSITORY

HOST = REPOSITORY / "kernels" / "host"
HEADERS = ("flash_attn3.h", "ops/fwd.h", "ops/combine.h", "ops/append.h")
STRUCTURES = {
    "fa3_tensor": _native.TensorView,
    "fa3_sequences": _native.Sequences,
    "fa3_mask": _native.Mask,
    "fa3_scale": _native.Scale,
    "fa3_fwd_args": _native.FwdArgs,
    "fa3_combine_args": CombineArgs,
    "fa3_rotary": Rotary,
    "fa3_append_args": AppendArgs,
    "fa3_kernel_info": KernelInfo,
}
NUMBERS = {
    **{f"FA3_{member.name}": member for member in _native.Dtype},
    **{f"FA3_{member.name}": member for member in _native.Code},
    **{f"FA3_{member.name}": member for member in _native.Status},
}
WITHOUT_A_DRIVER = {
    _native.Status.NO_DRIVER,
    _native.Status.INVALID_ARGUMENT,  # of arguments that are all zero, where there is a driver
}


def _compile(folder, assertions):
    """Check (C++ expression, number) pairs against the headers, without running anything."""
    source = folder / "layout.cpp"
    lines = [f"#include <{name}>" for name in ("stddef.h", "stdint.h")]
    lines += [f'#include "{header}"' for header in HEADERS]
    lines += [f'static_assert({text} == {number}, "{text}");' for text, number in assertions]
    source.write_text("\n".join([*lines, ""]))
    compiler = (sys.executable, "-m", "ziglang", "c++", "-std=c++17", "-I", str(HOST))
    arguments = ("-c", str(source), "-o", str(folder / "layout.o"))
    return subprocess.run([*compiler, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_laid_out_as_in_c(name, tmp_path):
    structure = STRUCTURES[name]
    assertions = [(f"sizeof({name})", ctypes.sizeof(structure))]
    for field, *_ in structure._fields_:
        member = getattr(structure, field)
        assertions.append((f"offsetof({name}, {field})", member.offset))
        assertions.append((f"sizeof((({name}*)nullptr)->{field})", member.size))
    done = _compile(tmp_path, assertions)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_numbers_are_those_of_c(tmp_path):
    done = _compile(tmp_path, [(f"(int){name}", int(number)) for name, number in NUMBERS.items()])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_another_layout_is_noticed(tmp_path):
    done = _compile(tmp_path, [("sizeof(fa3_tensor)", ctypes.sizeof(_native.TensorView) + 8)])
    assert "static assertion failed" in done.stderr


def test_a_choice_of_no_kernel_is_no_choice():
    with pytest.raises(_native.NativeError) as caught:
        _native.allow_kernels(())
    assert caught.value.status == _native.Status.INVALID_ARGUMENT
    _native.allow_kernels()


def test_a_file_that_is_no_pack_is_refused(tmp_path):
    with pytest.raises(_native.NativeError, match=r"none\.fa3pack") as caught:
        _native.set_pack(tmp_path / "none.fa3pack")
    assert caught.value.status == _native.Status.BAD_PACK


@pytest.mark.parametrize("call", [_native.forward, _native.forward_kernel], ids=lambda call: call.__name__)
def test_empty_arguments_of_forward_are_refused(call):
    with pytest.raises(_native.NativeError) as caught:
        call(_native.FwdArgs())
    assert caught.value.status in WITHOUT_A_DRIVER
    assert str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "arguments"), [(combine_kernel, CombineArgs), (append_kernel, AppendArgs)]
)
def test_empty_arguments_of_other_operators_are_refused(kernel, arguments):
    with pytest.raises(_native.NativeError) as caught:
        kernel(arguments())
    assert caught.value.status in WITHOUT_A_DRIVER


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("op", [None, "fwd", "combine"])
def test_without_a_driver_no_device_is_supported(op):
    with pytest.raises(_native.NativeError) as caught:
        _native.require_device(0, op)
    assert caught.value.status == _native.Status.NO_DRIVER


@pytest.mark.parametrize("numbers", [{"dtype_in": 7}, {"dtype_out": -1}, {"code": 3}], ids=str)
def test_a_kernel_of_unknown_numbers_is_no_kernel(monkeypatch, numbers):
    def kernel_at(function, *arguments):
        if function == "fa3_kernel_count":
            arguments[0]._obj.value = 1
        else:
            info = arguments[1]._obj
            info.name = b"k"
            for name, number in numbers.items():
                setattr(info, name, number)

    monkeypatch.setattr(pack, "call", kernel_at)
    with pytest.raises(_native.NativeError, match=r"^kernel k of the pack: -?\d is not a valid ") as caught:
        _native.kernels.__wrapped__()
    assert caught.value.status == _native.Status.BAD_PACK


@pytest.mark.parametrize(
    ("sm", "code", "gpus", "target"),
    [
        (90, "exact", [90], "sm_90a"),
        (80, "portable", [80, 86, 89], "sm_80"),
        (86, "portable", [86, 89], "sm_86"),
        (100, "portable", [100, 103], "sm_100"),
        (80, "ptx", [80, 86, 89, 90, 100, 103, 120], "compute_80"),
    ],
)
def test_where_a_kernel_runs(sm, code, gpus, target):
    kernel = _native.Kernel("k", "fwd", "any", "12.8", sm, "bf16", "bf16", 64, 64, code)
    assert [gpu for gpu in (75, 80, 86, 89, 90, 100, 103, 120) if kernel.runs_on(gpu)] == gpus
    assert kernel.target == target
