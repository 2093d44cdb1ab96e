"""``flash_attn_combine`` without a GPU, and the checks that run on one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flash_attn3 import _native, flash_attn_combine
from flash_attn3.checks.ops.combine import (
    HEAD_DIMS,
    OUT_DTYPES,
    SPLITS,
    CombineCase,
    combine_cases,
    run_combine_case,
)

# torch.compile instantiates every autograd.Function that it traces, which torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
CPU = torch.device("cpu")


def _tensor(*shape, dtype=torch.float32, device="meta"):
    return torch.empty(shape, dtype=dtype, device=device)


OUT, LSE = _tensor(3, 2, 7, 4, 64), _tensor(3, 2, 7, 4)


@pytest.fixture
def combines(monkeypatch):
    """A build with a kernel that combines."""
    kernel = _native.Kernel("combine", "combine", "any", "12.8", 80, "fp32", "any", 0, 0, "portable")
    monkeypatch.setattr(_native, "kernels", lambda: (kernel,))


@pytest.mark.usefixtures("combines")
class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((1, LSE), TypeError, "out_partial must be a torch.Tensor; its type is int"),
            ((OUT, None), TypeError, "lse_partial must be a torch.Tensor; its type is NoneType"),
            ((OUT.half(), LSE), TypeError, "out_partial must be torch.float32; it is torch.float16"),
            ((OUT, LSE.double()), TypeError, "lse_partial must be torch.float32; it is torch.float64"),
            ((torch.zeros(OUT.shape), LSE), ValueError, "out_partial must be a CUDA tensor; it is on cpu"),
            ((OUT, torch.zeros(LSE.shape)), ValueError, "lse_partial must be a CUDA tensor; it is on cpu"),
            ((OUT[0, 0], LSE), ValueError, "out_partial must have shape (splits, batch, seqlen, heads, head_dim_v) or (splits, total, heads, head_dim_v); its shape is (7, 4, 64)"),
            ((OUT, LSE[:, 1:]), ValueError, "lse_partial must have shape (3, 2, 7, 4), that of out_partial without head_dim_v; its shape is (3, 1, 7, 4)"),
            ((OUT[:0], LSE[:0]), ValueError, "out_partial must have 1 to 256 splits; it has 0"),
            ((_tensor(257, 1, 1, 8), _tensor(257, 1, 1)), ValueError, "out_partial must have 1 to 256 splits; it has 257"),
            ((_tensor(2, 1, 1, 0), _tensor(2, 1, 1)), ValueError, "out_partial must have a head_dim_v of 1 or more; its shape is (2, 1, 1, 0)"),
            ((_tensor(2, 1, 1, 513), _tensor(2, 1, 1)), NotImplementedError, "out_partial has head_dim_v 513; this build combines up to 512"),
            ((OUT, LSE, None, "bf16"), TypeError, "out_dtype must be a torch.dtype or None; its type is str"),
            ((OUT, LSE, None, torch.float64), TypeError, "out_dtype must be torch.float32, torch.float16 or torch.bfloat16; it is torch.float64"),
            ((OUT, LSE, 1), TypeError, "out must be a torch.Tensor; its type is int"),
            ((OUT, LSE, OUT[0].double()), TypeError, "out must be torch.float32, torch.float16 or torch.bfloat16; it is torch.float64"),
            ((OUT, LSE, OUT[0], torch.float16), ValueError, "out_dtype must be the dtype of out, torch.float32, or None; it is torch.float16"),
            ((OUT, LSE, torch.zeros(OUT.shape[1:])), ValueError, "out must be on the device of out_partial, meta; it is on cpu"),
            ((OUT, LSE, OUT[0, 1:]), ValueError, "out must have shape (2, 7, 4, 64); its shape is (1, 7, 4, 64)"),
            ((OUT.clone().requires_grad_(), LSE, OUT[0]), ValueError, "out must be None when out_partial or lse_partial requires a gradient"),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_argument_is_named(self, arguments, error, message):
        with pytest.raises(error) as caught:
            flash_attn_combine(*arguments)
        assert str(caught.value) == message
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("out_dtype", [None, *OUT_DTYPES.values()])
    def test_results_are_shaped_as_documented(self, out_dtype, packed):
        out_partial, lse_partial = (OUT[:, 0], LSE[:, 0]) if packed else (OUT, LSE)
        out, lse = flash_attn_combine(out_partial, lse_partial, out_dtype=out_dtype)
        assert (out.shape, out.dtype) == (out_partial.shape[1:], out_dtype or torch.float32)
        assert out.is_contiguous()
        assert (lse.shape, lse.dtype) == (lse_partial.shape[1:], torch.float32)
        assert lse.transpose(-1, -2).is_contiguous()

    def test_it_writes_to_out(self):
        target = _tensor(2, 7, 4, 80, dtype=torch.bfloat16)[..., :64]
        out, lse = flash_attn_combine(OUT, LSE, target)
        assert out is target
        assert lse.shape == (2, 7, 4)
        assert flash_attn_combine(OUT, LSE, target, torch.bfloat16)[0] is target

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("needs_grad", [False, True])
    def test_compile_makes_one_graph(self, dynamic, needs_grad):
        torch._dynamo.reset()
        compiled = torch.compile(flash_attn_combine, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        for splits in (3, 5):
            out_partial = _tensor(splits, 20, 4, 64).requires_grad_(needs_grad)
            out, lse = compiled(out_partial, _tensor(splits, 20, 4), out_dtype=torch.float16)
            assert (out.shape, out.dtype, lse.shape) == ((20, 4, 64), torch.float16, (20, 4))
            assert out.requires_grad == lse.requires_grad == needs_grad

    def test_export_holds_one_operator(self):
        class Module(torch.nn.Module):
            def forward(self, out_partial, lse_partial):
                return flash_attn_combine(out_partial, lse_partial, out_dtype=torch.bfloat16)

        with FakeTensorMode(allow_non_fake_inputs=True):
            inputs = _tensor(3, 20, 4, 64, device="cuda"), _tensor(3, 20, 4, device="cuda")
        rows = torch.export.Dim("rows")
        program = torch.export.export(Module(), inputs, dynamic_shapes=({1: rows}, {1: rows}))
        calls = [node for node in program.graph.nodes if str(node.target) == "flash_attn3.combine.default"]
        assert len(calls) == 1

    def test_vmap_is_refused(self):
        with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
            torch.vmap(flash_attn_combine)(OUT[None], LSE[None])


def test_a_build_without_the_kernel_says_so(monkeypatch):
    monkeypatch.setattr(_native, "kernels", tuple)
    with pytest.raises(NotImplementedError, match="this build has no kernel that combines partial results"):
        flash_attn_combine(OUT, LSE)


@dataclass(frozen=True)
class PlainCombine:
    """What the kernel computes, in float32 PyTorch. Every field is a mistake when it differs from its default."""

    drop_last: bool = False  # leaves out the last split when there are several
    base_2: bool = False  # takes the LSE for base 2
    multiplies_empty: bool = False  # multiplies what lies in splits without keys
    lse_of_empty: float = -math.inf
    rounds_partials: bool = False  # rounds the partial results to bfloat16
    unscaled: bool = False  # forgets to divide by the sum
    lse_contiguous: bool = False
    ignores_out: bool = False
    writes_padding: bool = False
    skips_last_head: bool = False  # of a given out

    def __call__(self, out_partial, lse_partial, out=None, out_dtype=None):
        if self.drop_last and len(out_partial) > 1:
            out_partial, lse_partial = out_partial[:-1], lse_partial[:-1]
        best = lse_partial.amax(0)
        best = torch.where(best == -math.inf, 0.0, best)
        weights = torch.exp2(lse_partial - best) if self.base_2 else torch.exp(lse_partial - best)
        total = weights.sum(0)
        values = out_partial.bfloat16().float() if self.rounds_partials else out_partial
        if not self.multiplies_empty:
            values = values.masked_fill((lse_partial == -math.inf)[..., None], 0.0)
        combined = (weights[..., None] * values).sum(0)
        if not self.unscaled:
            combined /= torch.where(total == 0, 1.0, total)[..., None]
        lse = torch.where(total == 0, self.lse_of_empty, best + total.log())
        if not self.lse_contiguous:
            lse = lse.transpose(-1, -2).contiguous().transpose(-1, -2)
        if out is None:
            return combined.to(out_dtype), lse
        if self.skips_last_head:
            out[..., :-1, :] = combined[..., :-1, :].to(out.dtype)
            return out, lse
        if self.ignores_out:
            return combined.to(out.dtype), lse
        out.copy_(combined)
        if self.writes_padding:
            end = sum((size - 1) * stride for size, stride in zip(out.shape, out.stride(), strict=True))
            out.as_strided((1,), (1,), out.storage_offset() + end + 1).fill_(0)
        return out, lse


CASES = combine_cases(quick=False)
SMALL = [c for c in CASES if c.splits * c.batch * c.seqlen * c.heads * c.head_dim_v < 1 << 20]


@pytest.mark.parametrize("case", SMALL[::20], ids=lambda case: case.name)
def test_a_right_kernel_passes(case):
    assert run_combine_case(case, PlainCombine(), CPU).failures == ()


@pytest.mark.parametrize("dtype", OUT_DTYPES)
@pytest.mark.parametrize(
    "mistake",
    [
        {"drop_last": True},
        {"base_2": True},
        {"multiplies_empty": True},
        {"lse_of_empty": 0.0},
        {"unscaled": True},
        {"lse_contiguous": True},
        {"ignores_out": True},
        {"writes_padding": True},
        {"skips_last_head": True},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_wrong_kernel_fails(mistake, dtype):
    cases = [CombineCase(dtype, 4, 2, 20, 3, 64, empty=empty, layout="padded") for empty in ("some", "rows")]
    assert all(run_combine_case(case, PlainCombine(), CPU).passed for case in cases)
    assert not all(run_combine_case(case, PlainCombine(**mistake), CPU).passed for case in cases)


def test_partial_results_must_not_be_rounded():
    case = CombineCase("fp32", 4, 2, 20, 3, 64)
    assert not run_combine_case(case, PlainCombine(rounds_partials=True), CPU).passed
    assert run_combine_case(replace(case, splits=1), PlainCombine(), CPU).passed


def test_cases_are_all_there():
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.splits for case in CASES} == set(SPLITS)
    assert {case.head_dim_v for case in CASES} == set(HEAD_DIMS)
    for case in CASES:
        assert not case.packed or case.batch == 1
