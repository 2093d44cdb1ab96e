from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flash_attn3.checks.behaviour.forward_memory import out_cases, run_out_case
from flash_attn3.checks.cases.case import AttentionCase
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")
LAYOUTS = ("contiguous", "bhsd", "padded")
DENSE = AttentionCase("bf16", True, 2, 65, 70, 4, 2, head_dim=64)
PACKED = replace(DENSE, form="packed_used", batch=4, seed=3)


def _forward(*arguments, out=None, **options):
    result, lse = TiledAttention()(*arguments, **options)
    return (result if out is None else out.copy_(result)), lse


def _returns_another(*arguments, out=None, **options):
    written, lse = _forward(*arguments, out=out, **options)
    return written.clone(), lse


def _writes_beyond(*arguments, out=None, **options):
    written, lse = _forward(*arguments, out=out, **options)
    if out is not None:
        end = sum((size - 1) * stride for size, stride in zip(out.shape, out.stride(), strict=True))
        out.as_strided((1,), (1,), out.storage_offset() + end + 1).fill_(0)
    return written, lse


def _leaves_a_row(*arguments, out=None, **options):
    if out is None:
        return _forward(*arguments, **options)
    before = out.clone()
    written, lse = _forward(*arguments, out=out, **options)
    out[..., 0, :, :] = before[..., 0, :, :]
    return written, lse


def _other_bits(*arguments, out=None, **options):
    written, lse = _forward(*arguments, out=out, **options)
    return written if out is None else written.mul_(1.01), lse


@pytest.mark.parametrize(("case", "layout"), out_cases()[::5], ids=lambda part: getattr(part, "name", part))
def test_a_kernel_that_writes_right_passes(case, layout):
    assert run_out_case(case, layout, _forward, CPU).failures == ()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [DENSE, PACKED], ids=lambda case: case.form)
@pytest.mark.parametrize("wrong", [_returns_another, _writes_beyond, _leaves_a_row, _other_bits])
def test_a_kernel_that_writes_wrong_fails(wrong, case, layout):
    assert run_out_case(case, layout, _forward, CPU).failures == ()
    assert not run_out_case(case, layout, wrong, CPU).passed


def test_an_exception_is_a_failure():
    def refuses(*_arguments, **_options):
        raise RuntimeError("no kernel image")

    assert run_out_case(DENSE, "bhsd", refuses, CPU).failures == ("raised RuntimeError: no kernel image",)
