"""Checks of ``flash_attn_combine``: a float64 reference, NaN where nothing may be read, canaries around out.

The tolerance is float32's: each weight and each sum is some roundings off, in proportion to the magnitudes
that are added, and the output is rounded once more to its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.behaviour.canary import Memory, bits_of, find_damage
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.truth.rule import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

# (out_partial, lse_partial, out=None, out_dtype=None) -> (out, lse)
Combine = Callable[..., tuple[Tensor, Tensor]]

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


@dataclass(frozen=True)
class CombineCase:
    """One call.

    Attributes:
        dtype: of the output, a name of ``OUT_DTYPES``.
        packed: without the dimension batch, which is then 1.
        layout: how out_partial lies in memory, and out where it is given.
        lse_layout: how lse_partial does; "adjacent": as a transposed view.
        empty: which splits have LSE -inf, and NaN for values: none, some, all of some rows, all.
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
        """Everything that tells this case from the others, in one word."""
        return (
            f"{self.dtype}_d{self.head_dim_v}_splits{self.splits}-b{self.batch}_h{self.heads}_s{self.seqlen}"
            f"{'_packed' if self.packed else ''}-{self.layout}-lse_{self.lse_layout}-empty_{self.empty}"
            f"-spread{self.spread:g}"
        )


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
    return tuple({case.name: _fitted(case) for case in cases}.values())


def _fitted(case: CombineCase) -> CombineCase:
    return replace(case, batch=1) if case.packed else case


def run_combine_case(case: CombineCase, combine: Combine, device: torch.device) -> Outcome:
    """Run one case, without and with ``out``, and judge it. An exception is a failure of the case."""
    verdict = Verdict()
    try:
        _judge_case(verdict, case, combine, device)
    except Exception as error:  # noqa: BLE001  whatever it raises, the case failed and the next one runs
        verdict.require(False, f"raised {type(error).__name__}: {error}")
    return Outcome("combine", case.name, asdict(case), verdict.figures, tuple(verdict.failures))


def _judge_case(verdict: Verdict, case: CombineCase, combine: Combine, device: torch.device) -> None:
    out_partial, lse_partial = _make_inputs(case, device)
    dtype = OUT_DTYPES[case.dtype]
    out, lse = combine(out_partial, lse_partial, out_dtype=dtype)
    shape = tuple(out_partial.shape[1:])
    if tuple(out.shape) != shape or tuple(lse.shape) != shape[:-1]:
        verdict.require(
            False, f"shapes are out {tuple(out.shape)}, lse {tuple(lse.shape)}; out should be {shape}"
        )
        return
    verdict.require(out.dtype == dtype, f"out is {out.dtype}; it should be {dtype}")
    verdict.require(lse.dtype == torch.float32, f"lse is {lse.dtype}; it should be torch.float32")
    verdict.require(
        out.is_contiguous() and lse.transpose(-1, -2).is_contiguous(),
        "out, or lse with its last two dimensions exchanged, is not contiguous",
    )
    _judge_values(verdict, out_partial, lse_partial, out, lse)
    verdict.failures += _into(case, combine, (out_partial, lse_partial), (out, lse))


def _judge_values(
    verdict: Verdict, out_partial: Tensor, lse_partial: Tensor, out: Tensor, lse: Tensor
) -> None:
    """Hold out and lse to float64."""
    if not out.numel():
        return
    exponents = lse_partial.double()
    true_lse = torch.logsumexp(exponents, dim=0)
    shift = torch.where(true_lse == -torch.inf, 0.0, true_lse)
    weights = torch.exp(exponents - shift)[..., None]
    values = out_partial.double().masked_fill(weights == 0, 0.0)
    truth, magnitude = (weights * values).sum(0), (weights * values.abs()).sum(0)
    roundings = (_ROUNDINGS + math.sqrt(out_partial.shape[0]) + 2 * shift.abs()) * _UNIT
    seen = true_lse != -torch.inf
    wrong = (lse == -torch.inf) == seen
    verdict.require(not bool(wrong.any()), f"lse is -inf in {int(wrong.sum())} rows where it should not be")
    lse_error = (lse.double() - true_lse).abs().masked_fill(~seen, 0.0)
    verdict.hold("lse_error_over_tolerance", float((lse_error / roundings).max()), 1.0)
    info = torch.finfo(out.dtype)
    tolerance = (
        roundings[..., None] * magnitude + info.eps / 2 * truth.abs() + info.smallest_normal * info.eps
    )
    error = (out.double() - truth).abs()
    verdict.hold("out_error_over_tolerance", float((error / tolerance).max()), 1.0)


def _into(
    case: CombineCase, combine: Combine, partials: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]
) -> Iterator[str]:
    """Yield what is wrong with the same call with ``out``, which must give the same bits."""
    out, lse = expected
    integers = torch.int32 if out.dtype == torch.float32 else torch.int16
    heads, head_dim_v = out.shape[-2:]
    padding = 0 if case.layout == "contiguous" else 3
    memory = Memory((*out.shape[:-2], heads + bool(padding), head_dim_v + padding), integers, out.device)
    bits = memory.block[..., :heads, :head_dim_v]
    memory.poison(bits)
    target = bits.view(out.dtype)
    written, written_lse = combine(*partials, out=target)
    if written is not target:
        yield "the call returned another tensor than out"
    if not torch.equal(bits_of(target), bits_of(out)) or not torch.equal(bits_of(written_lse), bits_of(lse)):
        yield "the result differs from the call's without out"
    yield from find_damage(memory, bits, "out")


def _make_inputs(case: CombineCase, device: torch.device) -> tuple[Tensor, Tensor]:
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
    out_partial, lse_partial = _lay(values, case.layout), _lay_lse(lse, case.lse_layout)
    return (out_partial[:, 0], lse_partial[:, 0]) if case.packed else (out_partial, lse_partial)


def _lay(values: Tensor, layout: str) -> Tensor:
    """Return a view with these values in other memory; between them lies NaN."""
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


def _lay_lse(lse: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return lse
    if layout == "adjacent":
        return lse.transpose(2, 3).contiguous().transpose(2, 3)
    splits, batch, seqlen, heads = lse.shape
    room = lse.new_full((splits, batch, heads + 1, seqlen + 3), torch.nan)
    return room[:, :, :heads, 1 : seqlen + 1].transpose(2, 3).copy_(lse)
