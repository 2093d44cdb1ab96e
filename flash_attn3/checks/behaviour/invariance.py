"""Invariance: the output of a sequence has the same bits in every batch, order and memory form.

The output of a query row has the same bits whatever the other rows are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.forms import FORMS, Form
from flash_attn3.checks.cases.options import NATIVE, WIDE, with_head_dims
from flash_attn3.checks.data.inputs import DTYPES, make_inputs
from flash_attn3.checks.data.layouts import guarded
from flash_attn3.checks.data.sequences import place_sequences
from flash_attn3.checks.data.values import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flash_attn3.checks.data.call import Forward
    from flash_attn3.checks.data.sequences import PlacedSequences

_PACKED = "packed"
# The longest is a multiple of every tile: in a batch with it, the heads of a group do not share a tile; in a
# batch of one of the others they do.
_LENGTHS_Q = (130, 0, 1, 257, 384, 300)
_LENGTHS_K = (200, 77, 513, 300, 0, 129)
_GROUPS = ((4, 2), (8, 1), (3, 1))
# (seqlen_q, heads, heads_kv): a tile of one head, and a tile of several heads.
_SHARED_TILES = ((300, 2, 2), (50, 8, 2), (5, 16, 1))
_ORDER = (4, 3, 0, 5, 1, 2)
_LONG = 10_000  # a bound that is longer than all sequences together
_MASKS: tuple[dict[str, Any], ...] = (
    {"causal": False},
    {"causal": True},
    {"causal": False, "window": (90, 40)},
    {"causal": True, "softcap": 20.0},
)


def varying_batches(forward: Forward, device: torch.device) -> Iterator[str]:
    """Compare the packed batch with another order, with a longer bound, each alone, and each other form."""
    return _varying(forward, device, NATIVE)


def varying_batches_of_wide_values(forward: Forward, device: torch.device) -> Iterator[str]:
    """Do the same with values that a kernel computes in slices."""
    return _varying(forward, device, WIDE[:2])


def varying_batches_of_outrunning_rows(forward: Forward, device: torch.device) -> Iterator[str]:
    """Do the same with tiles of which only some rows outrun their first scores."""
    return _varying(forward, device, NATIVE, values="outrunning_rows")


def rows_beside_outrunning_ones(forward: Forward, device: torch.device) -> Iterator[str]:
    """Compare rows beside outrunning rows of their tile with the same rows beside others like them."""
    for index, pair in enumerate(NATIVE):
        for mask, (seqlen_q, heads, heads_kv) in product(_MASKS, _SHARED_TILES):
            case = AttentionCase(
                dtype=("bf16", "fp16")[index % 2],
                batch=2,
                seqlen_q=seqlen_q,
                seqlen_k=901,
                heads=heads,
                heads_kv=heads_kv,
                values="outrunning_rows",
                **mask,
            )
            case = with_head_dims(case, pair)
            inputs = make_inputs(case, device)
            other = inputs.q[..., 0] < 2  # outrunning rows have 8 to 12
            tame = inputs.q.clone()
            tame[..., 0] = torch.where(other, tame[..., 0], 0.0)
            beside, without = (
                (out[other], lse.transpose(1, 2)[other])
                for out, lse in (
                    forward(q, inputs.k, inputs.v, None, case.causal, **case.options())
                    for q in (inputs.q, tame)
                )
            )
            if not _same(beside, without):
                yield f"{case.name}: rows differ beside rows whose scores outrun their first ones"


def _varying(
    forward: Forward, device: torch.device, pairs: Sequence[tuple[int, int]], *, values: str = "normal"
) -> Iterator[str]:
    groups = cycle(_GROUPS)
    for index, pair in enumerate(pairs):
        for mask in _MASKS:
            heads, heads_kv = next(groups)
            case = AttentionCase(
                dtype=("bf16", "fp16")[index % 2],
                batch=6,
                seqlen_q=384,
                seqlen_k=513,
                heads=heads,
                heads_kv=heads_kv,
                values=values,
                **mask,
            )
            yield from _differences(forward, with_head_dims(replace(case, form=_PACKED), pair), device)


def _differences(forward: Forward, case: AttentionCase, device: torch.device) -> Iterator[str]:
    tensors = _tensors(case, device)
    whole = _run(forward, case, tensors, range(6), FORMS[_PACKED])

    def compared(found: list[tuple[Tensor, Tensor]], items: Sequence[int], when: str) -> Iterator[str]:
        for item, result in zip(items, found, strict=True):
            if not _same(whole[item], result):
                yield f"{case.name}: sequence {item} differs {when}"

    reordered = _run(forward, case, tensors, _ORDER, FORMS[_PACKED])
    yield from compared(reordered, _ORDER, "in another order of the batch")
    bounded = _run(forward, case, tensors, range(6), FORMS[_PACKED], bound=_LONG)
    yield from compared(bounded, range(6), "with a longer bound of the lengths")
    for item in range(6):
        yield from compared(_run(forward, case, tensors, (item,), FORMS[_PACKED]), (item,), "alone")
    for name, form in FORMS.items():
        if form.shared or not (form.packed_q or form.used_q):
            continue  # such a form changes the sequences themselves
        for page_size in (16, 100, 128) if name.startswith("paged") else (0,):
            found = _run(forward, case, tensors, range(6), form, page_size)
            yield from compared(found, range(6), f"when {name} ({page_size} rows a page)")


def _tensors(case: AttentionCase, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device=device).manual_seed(7)
    dtype, head_dim_v = DTYPES[case.dtype], case.head_dim_v or case.head_dim
    shapes = (
        (case.batch, case.seqlen_q, case.heads, case.head_dim),
        (case.batch, case.seqlen_k, case.heads_kv, case.head_dim),
        (case.batch, case.seqlen_k, case.heads_kv, head_dim_v),
    )
    q, k, v = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
    q, k, v = VALUES[case.values](q, k, v, generator)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _run(  # noqa: PLR0917  one step of `_differences`
    forward: Forward,
    case: AttentionCase,
    tensors: tuple[Tensor, Tensor, Tensor],
    items: Any,
    form: Form,
    page_size: int = 0,
    bound: int | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return (out, lse) of each of the sequences, run in one batch; ``bound`` is a bound of the lengths."""
    chosen = list(items)
    lengths = tuple(_LENGTHS_Q[item] for item in chosen), tuple(_LENGTHS_K[item] for item in chosen)
    q, k, v = (tensor[chosen] for tensor in tensors)
    # Padded to the longest sequence of this batch, so that a batch of one has no padding.
    q, k, v = q[:, : max(lengths[0])], k[:, : max(lengths[1])], v[:, : max(lengths[1])]
    placed: PlacedSequences = place_sequences(
        form,
        (q, k, v),
        lengths,
        page_size=page_size,
        seed=len(chosen),
        new=lambda shape: guarded(shape, q.dtype, q.device),
    )
    options = {**case.options(), **placed.options}
    if bound is not None:
        options |= {"max_seqlen_q": bound, "max_seqlen_k": bound}
    out, lse = placed.padded(*forward(placed.q, placed.k, placed.v, None, case.causal, **options))
    return [(out[i, :length], lse[i, :, :length]) for i, length in enumerate(lengths[0])]


def _same(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
