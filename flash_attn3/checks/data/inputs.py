"""Inputs of an attention case."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.cases.forms import FORMS
from flash_attn3.checks.data.layouts import LAYOUTS, PACKED_LAYOUTS, guarded
from flash_attn3.checks.data.sequences import PlacedSequences, place_sequences
from flash_attn3.checks.data.values import VALUES

if TYPE_CHECKING:
    from flash_attn3.checks.cases.case import AttentionCase

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Lengths:
    """Used rows of each batch item, counted from the first: ``q`` and ``k``, each (batch,) int64."""

    q: Tensor
    k: Tensor


@dataclass(frozen=True)
class AttentionInputs:
    """Tensors of one call.

    Attributes:
        q: as the caller passes it, and so are k and v.
        options: the other tensors of the call, and their scalars, by the names of the public functions.
        padded: (q, k, v) for the reference: one sequence a batch item, finite beyond its length and in keys
            that no query sees.
        lengths: of the sequences; None for the lengths of the tensors.
        sequences: where the sequences were placed; None if each is a batch item of ``padded``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Tensor | int] = field(default_factory=dict)
    padded: tuple[Tensor, Tensor, Tensor] = ()  # type: ignore[assignment]
    lengths: Lengths | None = None
    sequences: PlacedSequences | None = None

    @property
    def sink(self) -> Tensor | None:
        """(heads,) float32, or None."""
        sink = self.options.get("learnable_sink")
        return sink if isinstance(sink, Tensor) else None


def make_inputs(case: AttentionCase, device: torch.device) -> AttentionInputs:
    """Return the inputs of a case on a device; equal for equal cases."""
    generator = torch.Generator(device=device).manual_seed(case.seed + 1)
    shape_q = (case.batch, case.seqlen_q, case.heads, case.head_dim)
    shape_k = (case.batch, case.seqlen_k, case.heads_kv, case.head_dim)
    shape_v = (*shape_k[:3], case.head_dim_v or case.head_dim)
    q, k, v = (torch.randn(s, generator=generator, device=device) for s in (shape_q, shape_k, shape_v))
    q, k, v = VALUES[case.values](q, k, v, generator)
    dtype = DTYPES[case.dtype]
    options: dict[str, Tensor | int] = {}
    if case.sink:
        options["learnable_sink"] = 3 * torch.randn(case.heads, generator=generator, device=device)
    if case.form != "dense":
        return _ragged(case, (q.to(dtype), k.to(dtype), v.to(dtype)), options)
    if case.layout in PACKED_LAYOUTS:
        placed = PACKED_LAYOUTS[case.layout]((q, k, v), dtype)
    else:
        placed = [LAYOUTS[case.layout](tuple(tensor.shape), dtype, device) for tensor in (q, k, v)]
    for memory, values in zip(placed, (q, k, v), strict=True):
        # The base of an expanded layout holds one item of each repeated dimension.
        memory.base.copy_(values[tuple(slice(size) for size in memory.base.shape)])
    passed = placed[0].view, placed[1].view, placed[2].view
    unseen = case.unseen_keys()[0] if case.batch else 0
    if unseen == 0:
        return AttentionInputs(*passed, options, padded=passed)
    padded = passed[0], passed[1].clone(), passed[2].clone()
    for memory in placed[1:]:
        memory.base[:, :unseen] = torch.nan
    return AttentionInputs(*passed, options, padded=padded)


def _without(padded: Tensor, unseen_keys: tuple[int, ...]) -> Tensor:
    """Return k or v with NaN in the first keys of each batch item."""
    if not any(unseen_keys):
        return padded
    unseen = torch.tensor(list(unseen_keys), device=padded.device)[:, None]
    key = torch.arange(padded.shape[1], device=padded.device)[None, :]
    return padded.masked_fill((key < unseen)[:, :, None, None], torch.nan)


def _ragged(
    case: AttentionCase, padded: tuple[Tensor, Tensor, Tensor], options: dict[str, Tensor | int]
) -> AttentionInputs:
    q, k, v = padded
    lengths, form = case.lengths(), FORMS[case.form]
    if form.shared:
        k, v = (tensor[:1].expand_as(tensor).contiguous() for tensor in (k, v))
    unseen_keys = case.unseen_keys()
    if form.shared:
        unseen_keys = (min(unseen_keys, default=0),) * case.batch
    sequences = place_sequences(
        form,
        (q, _without(k, unseen_keys), _without(v, unseen_keys)),
        lengths,
        unseen_keys=unseen_keys,
        page_size=case.page_size,
        seed=case.seed,
        new=partial(guarded, dtype=q.dtype, device=q.device),
    )
    device_lengths = Lengths(*(torch.tensor(list(part), device=q.device) for part in lengths))
    return AttentionInputs(
        *(sequences.q, sequences.k, sequences.v),
        options | sequences.options,
        padded=(q, k, v),
        lengths=device_lengths,
        sequences=sequences,
    )
