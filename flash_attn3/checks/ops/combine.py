"""Checks of ``flash_attn_combine``: cases, inputs, float64 truth and tolerance.

The tolerance is that of float32: each weight and each sum is some roundings off, in proportion to the
magnitudes that are added, and the output is rounded once more to its dtype.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import flash_attn_combine
from flash_attn3._native import Dtype
from flash_attn3._native import combine as native_combine
from flash_attn3.checks.behaviour.canary import Memory, OutBuffer, Results
from flash_attn3.checks.data.forward_abi import set_tensor
from flash_attn3.checks.ops.opcheck import OpCheck, Selection, Selftest
from flash_attn3.checks.speed.host_time import HostCall
from flash_attn3.checks.speed.providers import OURS
from flash_attn3.checks.truth.rule import Judgement

if TYPE_CHECKING:
    from collections.abc import Callable

OUT_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SPLITS = (1, 2, 3, 5, 16, 17, 37, 55, 97, 133, 255, 256)
HEAD_DIMS = (8, 64, 96, 128, 192, 256, 512, 1, 33, 59, 111, 255, 511)
_SHAPES = ((1, 1, 1), (2, 113, 5), (3, 64, 4), (1, 257, 8), (4, 1, 32), (2, 0, 4), (0, 5, 4))
_LAYOUTS = ("contiguous", "heads_first", "padded", "strided", "reversed_splits")
_LSE_LAYOUTS = ("adjacent", "contiguous", "padded")
_EMPTY = ("none", "some", "rows", "all")
# float32 roundings of a weight: its exponent, the approximations of exp and log, the sums that they enter.
_ROUNDINGS = 48
_UNIT = 2.0**-24


# ---- cases ----

CATEGORIES = ("plain", "layout", "empty")
"""What a case tests: plain calls, memory layouts, splits without any key."""


@dataclass(frozen=True)
class CombineCase:
    """One call.

    Attributes:
        dtype: of the output, a name of ``OUT_DTYPES``.
        packed: whether the tensors have no batch dimension; batch is then 1.
        layout: memory layout of out_partial, and of out where it is given.
        lse_layout: memory layout of lse_partial; "adjacent": positions are contiguous, heads are not.
        empty: splits with an LSE of -inf, and NaN values: none, some, all of some rows, all.
        spread: standard deviation of the LSE.
    """

    dtype: str
    splits: int
    batch: int
    seqlen: int
    heads: int
    head_dim_v: int
    packed: bool = False
    layout: str = "contiguous"
    lse_layout: str = "adjacent"
    empty: str = "none"
    spread: float = 1.0

    @property
    def name(self) -> str:
        """Every field in one word."""
        return (
            f"{self.dtype}_d{self.head_dim_v}_splits{self.splits}-b{self.batch}_h{self.heads}_s{self.seqlen}"
            f"{'_packed' if self.packed else ''}-{self.layout}-lse_{self.lse_layout}-empty_{self.empty}"
            f"-spread{self.spread:g}"
        )

    @property
    def category(self) -> str:
        """One of ``CATEGORIES``: the last of them that applies."""
        if self.empty != "none":
            return "empty"
        plain = (self.layout, self.lse_layout) == ("contiguous", "adjacent")
        return "plain" if plain else "layout"

    def params(self) -> dict[str, Any]:
        """Return the case as plain data."""
        return asdict(self)


def combine_cases(quick: bool) -> tuple[CombineCase, ...]:
    """Return every number of splits with every head_dim_v, and every form and layout."""
    splits = SPLITS[::3] if quick else SPLITS
    shapes, layouts, lse_layouts, empty = (
        cycle(_SHAPES[1:5]),
        cycle(_LAYOUTS),
        cycle(_LSE_LAYOUTS),
        cycle(_EMPTY),
    )
    spreads, packed = cycle((1.0, 30.0)), cycle((False, False, True))
    cases = [
        CombineCase(dtype, count, *next(shapes), head_dim_v, spread=next(spreads))
        for dtype, count, head_dim_v in product(OUT_DTYPES, splits, HEAD_DIMS[:: 3 if quick else 1])
    ]
    cases = [
        replace(
            case,
            packed=next(packed),
            layout=next(layouts),
            lse_layout=next(lse_layouts),
            empty=next(empty),
        )
        for case in cases
    ]
    plain = CombineCase("bf16", 3, 2, 40, 3, 128)
    cases += [
        replace(plain, packed=form, layout=layout, lse_layout=lse_layout, empty=which)
        for form, layout, lse_layout, which in product((False, True), _LAYOUTS, _LSE_LAYOUTS, _EMPTY)
    ]
    cases += [replace(plain, batch=b, seqlen=s, heads=h) for b, s, h in _SHAPES]
    cases += [replace(plain, spread=spread, dtype="fp32") for spread in (0.0, 300.0)]
    return tuple({case.name: _with_batch_1_if_packed(case) for case in cases}.values())


def _with_batch_1_if_packed(case: CombineCase) -> CombineCase:
    return replace(case, batch=1) if case.packed else case


# ---- inputs and the call ----


@dataclass(frozen=True)
class Partials:
    """out_partial (splits, [batch,] seqlen, heads, head_dim_v), lse_partial the same without head_dim_v."""

    out: Tensor
    lse: Tensor


def make_partials(case: CombineCase, device: torch.device) -> Partials:
    """Return the inputs of a case; values of splits without keys are NaN."""
    generator = torch.Generator(device=device).manual_seed(case.splits * 1000 + case.head_dim_v)
    rows = (case.splits, case.batch, case.seqlen, case.heads)
    values = torch.randn(*rows, case.head_dim_v, generator=generator, device=device)
    lse = case.spread * torch.randn(rows, generator=generator, device=device) + 3
    if case.empty == "some":
        lse[torch.rand(rows, generator=generator, device=device) < 0.4] = -torch.inf
    elif case.empty == "rows":
        lse[:, torch.rand(rows[1:], generator=generator, device=device) < 0.4] = -torch.inf
    elif case.empty == "all":
        lse.fill_(-torch.inf)
    values[lse == -torch.inf] = torch.nan
    out_partial, lse_partial = _place(values, case.layout), _place_lse(lse, case.lse_layout)
    return (
        Partials(out_partial[:, 0], lse_partial[:, 0]) if case.packed else Partials(out_partial, lse_partial)
    )


def _place(values: Tensor, layout: str) -> Tensor:
    """Return a view with these values in other memory, which is NaN between them."""
    splits, batch, seqlen, heads, head_dim_v = values.shape
    if layout == "contiguous":
        return values
    if layout == "heads_first":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "reversed_splits":
        return values.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    step = 2 if layout == "strided" else 1
    room = values.new_full((splits, batch, seqlen + 2, heads + 1, step * head_dim_v + 1), torch.nan)
    view = room[:, :, 1 : seqlen + 1, :heads, 1::step][..., :head_dim_v]
    return view.copy_(values)


def _place_lse(lse: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return lse
    if layout == "adjacent":
        return lse.transpose(2, 3).contiguous().transpose(2, 3)
    splits, batch, seqlen, heads = lse.shape
    room = lse.new_full((splits, batch, heads + 1, seqlen + 3), torch.nan)
    return room[:, :, :heads, 1 : seqlen + 1].transpose(2, 3).copy_(lse)


def call(combine: Callable[..., Results], case: CombineCase, partials: Partials, **options: Any) -> Results:
    """Call ``combine`` with the dtype of the case, or with ``out``, which has it."""
    options = options or {"out_dtype": OUT_DTYPES[case.dtype]}
    return combine(partials.out, partials.lse, **options)


def out_buffer(case: CombineCase, result: Results) -> OutBuffer:
    """Return a buffer for ``out``; contiguous, or with rows and heads further apart."""
    out, _ = result
    integers = torch.int32 if out.dtype == torch.float32 else torch.int16
    heads, head_dim_v = out.shape[-2:]
    padding = 0 if case.layout == "contiguous" else 3
    memory = Memory((*out.shape[:-2], heads + bool(padding), head_dim_v + padding), integers, out.device)
    bits = memory.block[..., :heads, :head_dim_v]
    memory.poison(bits)
    return OutBuffer(memory, bits)


def combine_kernel(case: CombineCase, partials: Partials) -> Callable[[], str]:
    """Return a function that returns the name of the kernel which a call of this case would launch.

    See ``data.forward_abi.forward_kernel``: memory that the kernels can read stands for other layouts.
    """
    out_partial = partials.out.new_empty(partials.out.shape)
    *leading, seqlen, heads = partials.lse.shape
    lse_partial = partials.lse.new_empty((*leading, heads, seqlen))
    out = out_partial.new_empty(out_partial.shape[1:], dtype=OUT_DTYPES[case.dtype])
    lse = lse_partial.new_empty(lse_partial.shape[1:])

    def kernel() -> str:
        arguments = native_combine.CombineArgs()
        arguments.device = out.device.index or 0
        set_tensor(arguments.out_partial, out_partial[0], Dtype.FP32)
        arguments.out_partial_stride = out_partial.stride(0)
        arguments.lse_partial = lse_partial.data_ptr()
        batch_stride = 0 if case.packed else lse_partial.stride(1)
        arguments.lse_partial_stride[:] = (lse_partial.stride(0), batch_stride, lse_partial.stride(-2))
        set_tensor(arguments.out, out, Dtype[case.dtype.upper()])
        arguments.lse = lse.data_ptr()
        arguments.splits = case.splits
        return native_combine.combine_kernel(arguments).name

    return kernel


# ---- truth and judgement ----


@dataclass(frozen=True)
class CombineTruth:
    """Float64 results, and the float32 roundings that are allowed, relative to ``magnitude``.

    Attributes:
        out: (..., seqlen, heads, head_dim_v).
        lse: (..., seqlen, heads); roundings likewise.
        magnitude: as out: the sum of the weighted absolute values.
    """

    out: Tensor
    lse: Tensor
    magnitude: Tensor
    roundings: Tensor


def find_truth(_case: CombineCase, partials: Partials) -> CombineTruth:
    """Combine in float64; rows whose every LSE is -inf give 0 and -inf."""
    exponents = partials.lse.double()
    lse = torch.logsumexp(exponents, dim=0)
    shift = torch.where(lse == -torch.inf, 0.0, lse)
    weights = torch.exp(exponents - shift)[..., None]
    values = partials.out.double().masked_fill(weights == 0, 0.0)
    return CombineTruth(
        out=(weights * values).sum(0),
        lse=lse,
        magnitude=(weights * values.abs()).sum(0),
        roundings=(_ROUNDINGS + math.sqrt(partials.out.shape[0]) + 2 * shift.abs()) * _UNIT,
    )


def judge(case: CombineCase, _partials: Partials, truth: CombineTruth, result: Results) -> Judgement:
    """Judge (out, lse) of a call: shapes, dtypes, layout, values."""
    judgement = Judgement()
    out, lse = result
    if out.shape != truth.out.shape or lse.shape != truth.lse.shape:
        judgement.require(
            False,
            f"shapes are out {tuple(out.shape)}, lse {tuple(lse.shape)}; "
            f"out should be {tuple(truth.out.shape)}",
        )
        return judgement
    dtype = OUT_DTYPES[case.dtype]
    judgement.require(out.dtype == dtype, f"out is {out.dtype}; it should be {dtype}")
    judgement.require(lse.dtype == torch.float32, f"lse is {lse.dtype}; it should be torch.float32")
    judgement.require(
        out.is_contiguous() and lse.transpose(-1, -2).is_contiguous(),
        "out, or lse with its last two dimensions exchanged, is not contiguous",
    )
    if out.numel():
        _judge_values(judgement, truth, out, lse)
    return judgement


def _judge_values(judgement: Judgement, truth: CombineTruth, out: Tensor, lse: Tensor) -> None:
    seen = truth.lse != -torch.inf
    wrong = (lse == -torch.inf) == seen
    judgement.require(not bool(wrong.any()), f"lse is -inf in {int(wrong.sum())} rows where it should not be")
    lse_error = (lse.double() - truth.lse).abs().masked_fill(~seen, 0.0)
    judgement.hold("lse_error_over_tolerance", float((lse_error / truth.roundings).max()), 1.0)
    info = torch.finfo(out.dtype)
    tolerance = (
        truth.roundings[..., None] * truth.magnitude
        + info.eps / 2 * truth.out.abs()
        + info.smallest_normal * info.eps
    )
    error = (out.double() - truth.out).abs()
    judgement.hold("out_error_over_tolerance", float((error / tolerance).max()), 1.0)


# ---- the record ----


def _host_calls(device: torch.device) -> dict[str, HostCall]:
    partial = torch.randn(4, 1, 128, 4, 128, device=device)
    lse = torch.randn(4, 1, 4, 128, device=device).transpose(2, 3)
    return {f"{OURS} combine": HostCall(lambda: flash_attn_combine(partial, lse))}


def _cases(selection: Selection) -> tuple[CombineCase, ...]:
    return combine_cases(selection.quick)


CHECK: OpCheck[CombineCase, Partials, CombineTruth] = OpCheck(
    op="combine",
    section="combine",
    categories=CATEGORIES,
    function=flash_attn_combine,
    cases=_cases,
    on_ptx=lambda _case: True,
    inputs=make_partials,
    call=call,
    truth=find_truth,
    judge=judge,
    kernel=combine_kernel,
    out_buffer=out_buffer,
    selftest=Selftest(cases=lambda: combine_cases(quick=True)[::10]),
    host_calls=_host_calls,
)
