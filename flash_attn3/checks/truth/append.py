"""Truth and judgement of a case of appending: caches bit by bit, rotations and attention in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.data.append import put_rows
from flash_attn3.checks.data.inputs import DTYPES, Lengths
from flash_attn3.checks.truth.reference import Attention, Scoring, attention_fp64, attention_same_precision
from flash_attn3.checks.truth.rule import Judgement, judge, lse_tolerance

if TYPE_CHECKING:
    from flash_attn3.checks.cases.append import AppendCase
    from flash_attn3.checks.data.append import AppendInputs

_ROUNDINGS = 2.0**-22  # float32 roundings of two products and their sum, relative to their magnitudes


@dataclass(frozen=True)
class Attended:
    """What attention over the appended cache is judged against."""

    reference: Attention
    same_precision: Tensor
    lse_tolerance: Tensor


@dataclass(frozen=True)
class AppendTruth:
    """What the call leaves.

    Attributes:
        buffers: of k_cache and v_cache; the rotated elements rounded from float64.
        places: (page or entry, row) of each rotated row of k.
        rotated: (rows, heads, rotary_dim) float64, their exact values.
        tolerance: of each of them.
        attended: None where the call does not attend.
    """

    buffers: tuple[Tensor, Tensor]
    places: list[tuple[int, int]]
    rotated: Tensor
    tolerance: Tensor
    attended: Attended | None


def rotate(rows: Tensor, tables: tuple[Tensor, Tensor], interleaved: bool) -> tuple[Tensor, Tensor]:
    """Rotate (rows, heads, rotary_dim) by cosines and sines (rows, rotary_dim / 2) in float64.

    Returns:
        The rotated rows, and the sums of the magnitudes of the products in each element.
    """
    x, cosine, sine = rows.double(), *(table.double()[:, None] for table in tables)
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    sizes = tuple((a * cosine).abs() + (b * sine).abs() for a, b in ((first, second), (second, first)))
    if interleaved:
        return torch.stack(turned, dim=-1).flatten(-2), torch.stack(sizes, dim=-1).flatten(-2)
    return torch.cat(turned, dim=-1), torch.cat(sizes, dim=-1)


def find_truth(case: AppendCase, inputs: AppendInputs) -> AppendTruth:
    """Compute the truth of a case."""
    buffers = tuple(cache.buffer.clone() for cache in (inputs.k_cache, inputs.v_cache))
    k_cache, v_cache = (
        cache.view(buffer) for cache, buffer in zip((inputs.k_cache, inputs.v_cache), buffers, strict=True)
    )
    writes = inputs.writes
    for cache, new in ((k_cache, inputs.k), (v_cache, inputs.v)):
        put_rows(cache, [(write.slot, write.row) for write in writes], _rows(new, [w.source for w in writes]))
    turning = [write for write in writes if write.position is not None]
    places = [(write.slot, write.row) for write in turning]
    rows = _rows(inputs.k, [write.source for write in turning])
    positions = [write.position for write in turning]
    turned, exact, tolerance = _rotated(case, inputs, rows, positions)
    put_rows(k_cache, places, turned)
    attended = _attend(case, inputs, k_cache, v_cache) if inputs.q is not None else None
    return AppendTruth((buffers[0], buffers[1]), places, exact, tolerance, attended)


def _rows(tensor: Tensor, sources: list[tuple[int, ...]]) -> Tensor:
    """Return rows of k, v or q by their indices."""
    if not sources:
        return tensor.new_empty((0, *tensor.shape[-2:]))
    return tensor[tuple(torch.tensor(sources, device=tensor.device).T)]


def _rotated(
    case: AppendCase, inputs: AppendInputs, rows: Tensor, positions: list[int | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows with their first columns rotated, and these columns in float64 with their tolerance."""
    if not positions:
        none = rows.new_empty((0, rows.shape[1], case.rotary_dim), dtype=torch.float64)
        return rows, none, none
    at = torch.tensor(positions, device=rows.device)
    exact, sizes = rotate(
        rows[..., : case.rotary_dim], (inputs.tables[0][at], inputs.tables[1][at]), case.interleaved
    )
    info = torch.finfo(rows.dtype)
    tolerance = info.eps / 2 * exact.abs() + _ROUNDINGS * sizes + info.smallest_normal * info.eps
    turned = rows.clone()
    turned[..., : case.rotary_dim] = exact.to(rows.dtype)
    return turned, exact, tolerance


def _attend(case: AppendCase, inputs: AppendInputs, k_cache: Tensor, v_cache: Tensor) -> Attended:
    q = _padded_queries(case, inputs)
    keys, values = (
        cache.new_zeros((case.batch, max(1, case.room), *cache.shape[2:])) for cache in (k_cache, v_cache)
    )
    lengths = []
    for sequence, (length, padding) in enumerate(zip(inputs.after, inputs.padding, strict=True)):
        places = [inputs.place(sequence, row) for row in range(padding, length)]
        found = [place for place in places if place is not None]
        lengths.append(len(found))
        for target, cache in ((keys, k_cache), (values, v_cache)):
            target[sequence, : len(found)] = _rows(cache, list(found))
    scoring = Scoring(
        case.head_dim**-0.5,
        case.causal,
        window=case.window,
        lengths=Lengths(*(torch.tensor(list(of), device=q.device) for of in (inputs.queries, lengths))),
    )
    reference = attention_fp64(q, keys, values, scoring)
    return Attended(
        reference,
        attention_same_precision(q, keys, values, scoring),
        lse_tolerance(q, keys, reference.lse, scoring),
    )


def _query_rows(inputs: AppendInputs) -> list[tuple[int, int]]:
    return [(sequence, i) for sequence, count in enumerate(inputs.queries) for i in range(count)]


def _padded_queries(case: AppendCase, inputs: AppendInputs) -> Tensor:
    """Return q, rotated, as (batch, seqlen_q, heads, head_dim)."""
    assert inputs.q is not None  # noqa: S101  of the caller
    rows = _query_rows(inputs)
    flat = inputs.q if case.packed_q else inputs.q.flatten(0, 1)
    positions = [inputs.position(sequence, i if case.advances else 0) for sequence, i in rows]
    turning = [number for number, position in enumerate(positions) if position is not None]
    q = flat.clone()
    if turning:
        q[turning], _, _ = _rotated(case, inputs, flat[turning], [positions[number] for number in turning])
    padded = q.new_zeros((case.batch, case.seqlen_q, *q.shape[1:]))
    put_rows(padded, rows, q)
    return padded


def judge_case(
    case: AppendCase, inputs: AppendInputs, truth: AppendTruth, result: tuple[Tensor, ...]
) -> Judgement:
    """Judge (k buffer, v buffer, lengths) or (k buffer, v buffer, out, lse) of a call."""
    judgement = Judgement()
    _judge_caches(judgement, case, inputs, truth, result)
    if truth.attended is None:
        (lengths,) = result[2:]
        judgement.require(
            lengths.dtype == torch.int32 and lengths.tolist() == list(inputs.after),
            f"the lengths are {lengths.tolist()[:8]}; they should be {list(inputs.after)[:8]}",
        )
        return judgement
    out, lse = result[2:]
    attention = judge(
        Attention(*_padded_results(case, inputs, out, lse)),
        reference=truth.attended.reference,
        same_precision=truth.attended.same_precision,
        lse_tolerance=truth.attended.lse_tolerance,
    )
    judgement.require(out.dtype == DTYPES[case.dtype], f"out is {out.dtype}")
    judgement.figures |= attention.figures
    judgement.failures += attention.failures
    return judgement


def _judge_caches(
    judgement: Judgement,
    case: AppendCase,
    inputs: AppendInputs,
    truth: AppendTruth,
    result: tuple[Tensor, ...],
) -> None:
    """Compare the caches and all memory around them, bit by bit but for rotated elements."""
    caches = (inputs.k_cache, inputs.v_cache)
    found = [buffer.clone() for buffer in result[:2]]
    if truth.places:
        slots, rows = torch.tensor(truth.places, device=found[0].device).T
        views = [caches[0].view(buffer) for buffer in (found[0], truth.buffers[0])]
        columns = slice(case.rotary_dim)
        error = (views[0][slots, rows][..., columns].double() - truth.rotated).abs()
        judgement.hold(
            "rotated_error_over_tolerance", float((error / truth.tolerance).nan_to_num(torch.inf).max()), 1.0
        )
        rounded = views[0][slots, rows]
        rounded[..., columns] = views[1][slots, rows][..., columns]
        views[0][slots, rows] = rounded
    for name, buffer, wanted in zip(("k_cache", "v_cache"), found, truth.buffers, strict=True):
        wrong = int((buffer != wanted).sum())
        judgement.require(
            wrong == 0, f"{name}: {wrong} elements in it or around it differ from what they should be"
        )


def _padded_results(
    case: AppendCase, inputs: AppendInputs, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor]:
    if not case.packed_q:
        return out, lse
    rows = _query_rows(inputs)
    padded = out.new_zeros((case.batch, case.seqlen_q, *out.shape[1:]))
    padded_lse = lse.new_full((case.batch, case.seqlen_q, lse.shape[0]), -torch.inf)
    put_rows(padded, rows, out)
    put_rows(padded_lse, rows, lse.T)
    return padded, padded_lse.transpose(1, 2)
