"""The inputs of a case: named layouts in memory, and named kinds of values.

Every tensor is a view into a larger buffer filled with NaN, so that a kernel that reads a row it should not
read betrays itself in the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.data.forms import FORMS, Laid, lay
from flash_attn3.checks.truth.reference import Lengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from flash_attn3.checks.cases.case import Case

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GUARD = 4096  # NaN elements before and after
_FAR = 1 << 31  # bytes that a 32-bit signed offset cannot hold


@dataclass(frozen=True)
class Inputs:
    """q, k, v as the caller passes them.

    Attributes:
        options: the other tensors of the call, and what goes with them, by the names of the public functions.
        padded: (q, k, v), one sequence a batch item, finite where none reaches: what a reference takes.
        lengths: of the sequences; None: those of the tensors.
        laid: how the sequences lie; None: as in padded.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Tensor | int] = field(default_factory=dict)
    padded: tuple[Tensor, Tensor, Tensor] = ()  # type: ignore[assignment]
    lengths: Lengths | None = None
    laid: Laid | None = None

    @property
    def sink(self) -> Tensor | None:
        """(heads,) float32, or None."""
        sink = self.options.get("learnable_sink")
        return sink if isinstance(sink, Tensor) else None


@dataclass(frozen=True)
class _Space:
    """Memory of one tensor: ``base`` is written, ``view`` (of the same memory) is passed."""

    base: Tensor
    view: Tensor


def make_inputs(case: Case, device: torch.device) -> Inputs:
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
    if case.layout in _PACKED:
        spaces = _PACKED[case.layout]((q, k, v), dtype)
    else:
        spaces = [LAYOUTS[case.layout](tuple(tensor.shape), dtype, device) for tensor in (q, k, v)]
    for space, values in zip(spaces, (q, k, v), strict=True):
        # An expanded layout holds one item of the dimensions it repeats.
        space.base.copy_(values[tuple(slice(size) for size in space.base.shape)])
    passed = spaces[0].view, spaces[1].view, spaces[2].view
    return Inputs(*passed, options, padded=passed)


def _ragged(case: Case, padded: tuple[Tensor, Tensor, Tensor], options: dict[str, Tensor | int]) -> Inputs:
    q, k, v = padded
    lengths, form = case.lengths(), FORMS[case.form]
    if form.shared:
        k, v = (tensor[:1].expand_as(tensor).contiguous() for tensor in (k, v))
    laid = lay(
        form,
        (q, k, v),
        lengths,
        page_size=case.page_size,
        seed=case.seed,
        new=partial(guarded, dtype=q.dtype, device=q.device),
    )
    device_lengths = Lengths(*(torch.tensor(list(part), device=q.device) for part in lengths))
    return Inputs(
        *(laid.q, laid.k, laid.v), options | laid.options, padded=(q, k, v), lengths=device_lengths, laid=laid
    )


# ---- layouts: (batch, seqlen, heads, head_dim) in NaN-filled memory ----

_Shape = tuple[int, ...]


def guarded(shape: _Shape, dtype: torch.dtype, device: torch.device, *, offset: int = 0) -> Tensor:
    """Return a contiguous tensor with NaN in, before and after it, ``offset`` elements off alignment."""
    size = math.prod(shape)
    buffer = torch.full((2 * _GUARD + offset + size,), torch.nan, dtype=dtype, device=device)
    return buffer[_GUARD + offset : _GUARD + offset + size].view(shape)


def _contiguous(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    base = guarded(shape, dtype, device)
    return _Space(base, base)


def _padded(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    """Put NaN behind every row, whose strides the copy engine can take whatever the head_dim is."""
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen + 37, heads + 1, (head_dim + 15) // 8 * 8), dtype, device)
    buffer.fill_(torch.nan)
    base = buffer[:, 3 : 3 + seqlen, :heads, :head_dim]
    return _Space(base, base)


def _bhsd(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    batch, seqlen, heads, head_dim = shape
    base = guarded((batch, heads, seqlen, head_dim), dtype, device).transpose(1, 2)
    return _Space(base, base)


def _reversed_strides(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    batch, seqlen, heads, head_dim = shape
    base = guarded((heads, seqlen, batch, head_dim), dtype, device).transpose(0, 2)
    return _Space(base, base)


def _head_dim_slice(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen, heads, 2 * head_dim + 64), dtype, device)
    buffer.fill_(torch.nan)
    base = buffer[..., 64 : 64 + head_dim]
    return _Space(base, base)


def _offset(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    base = guarded(shape, dtype, device, offset=8)  # 16 bytes: as little as the copy engine can take
    return _Space(base, base)


def _misaligned(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    base = guarded(shape, dtype, device, offset=1)
    return _Space(base, base)


def _odd_row_stride(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    batch, seqlen, heads, head_dim = shape
    buffer = guarded((batch, seqlen, heads, head_dim + 3), dtype, device)
    buffer.fill_(torch.nan)
    return _Space(buffer[..., :head_dim], buffer[..., :head_dim])


def _strided_head_dim(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    buffer = guarded((*shape, 2), dtype, device)
    buffer.fill_(torch.nan)
    return _Space(buffer[..., 0], buffer[..., 0])


def _head_dim_outermost(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    batch, seqlen, heads, head_dim = shape
    base = guarded((batch, head_dim, heads, seqlen), dtype, device).transpose(1, 3)
    return _Space(base, base)


def _expanded_heads(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    base = guarded((shape[0], shape[1], 1, shape[3]), dtype, device)
    return _Space(base, base.expand(shape))


def _expanded_batch(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    base = guarded((1, *shape[1:]), dtype, device)
    return _Space(base, base.expand(shape))


def _far_batches(shape: _Shape, dtype: torch.dtype, device: torch.device) -> _Space:
    """Put batch items more than 2 GiB apart."""
    item = math.prod(shape[1:])
    stride = _FAR // dtype.itemsize + 1024
    buffer = torch.empty(stride * (shape[0] - 1) + item, dtype=dtype, device=device)
    base = buffer.as_strided(shape, (stride, shape[2] * shape[3], shape[3], 1))
    return _Space(base, base)


def _qkv_packed(tensors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[_Space]:
    batch, seqlen, heads, head_dim = tensors[0].shape
    packed = guarded((batch, seqlen, 3, heads, head_dim), dtype, tensors[0].device)
    return [_Space(part, part) for part in packed.unbind(2)]


def _kv_packed(tensors: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[_Space]:
    q, k, _ = tensors
    batch, seqlen, heads, head_dim = k.shape
    packed = guarded((batch, seqlen, 2, heads, head_dim), dtype, k.device)
    alone = _contiguous(tuple(q.shape), dtype, q.device)
    return [alone, *(_Space(part, part) for part in packed.unbind(2))]


LAYOUTS: dict[str, Callable[[_Shape, torch.dtype, torch.device], _Space]] = {
    "contiguous": _contiguous,
    "padded": _padded,
    "bhsd": _bhsd,
    "reversed_strides": _reversed_strides,
    "head_dim_slice": _head_dim_slice,
    "offset": _offset,
    "misaligned": _misaligned,
    "odd_row_stride": _odd_row_stride,
    "strided_head_dim": _strided_head_dim,
    "head_dim_outermost": _head_dim_outermost,
    "expanded_heads": _expanded_heads,
    "expanded_batch": _expanded_batch,
    "far_batches": _far_batches,
}
_PACKED: dict[str, Callable[[tuple[Tensor, Tensor, Tensor], torch.dtype], list[_Space]]] = {
    "qkv_packed": _qkv_packed,
    "kv_packed": _kv_packed,
}

# ---- values: standard normal q, k, v in float32 made into something harder ----

_Values = tuple[Tensor, Tensor, Tensor]


def _normal(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return q, k, v


def _uniform(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Positive values: nothing cancels, so a key counted twice or not at all shows in every column."""
    return (torch.special.ndtr(q), torch.special.ndtr(k), torch.special.ndtr(v))


def _outliers(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    def with_outliers(tensor: Tensor) -> Tensor:
        chosen = torch.rand(tensor.shape, generator=generator, device=tensor.device) < 0.001
        return tensor + 10 * tensor.flip(-1) * chosen

    return with_outliers(q), with_outliers(k), with_outliers(v)


def _peaked(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits of standard deviation 16: one key takes nearly all; the maximum moves from tile to tile."""
    return 4 * q, 4 * k, v


def _equal_logits(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return q, k[:, :1].expand_as(k), v


def _one_huge_logit(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    k = k.clone()
    middle = k.shape[1] // 2
    group = q.shape[2] // k.shape[2]
    k[:, middle] = 50 * q[:, -1, ::group]
    return q, k, v


def _huge_logits(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits in the thousands: exp of one without its row's maximum taken off is inf."""
    return 30 * q, 30 * k, v


# Kernels visit keys last to first and may keep what they took for a row's maximum while scores grow a little.
_STAIR = 180  # keys; no multiple of a kernel's block, and more than one


def _rising_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits that rise by 6 to 12 from each 128 keys to those before them."""
    q, k = q.clone(), k.clone()
    q[..., 0] = 4 + 4 * torch.special.ndtr(q[..., 0])
    key = torch.arange(k.shape[1], device=k.device)
    k[..., 0] = -(math.sqrt(q.shape[-1]) / 8 * 12 / 128 * key)[None, :, None]
    return q, k, v


def _outrunning_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits that rise by 64 to 144 at once every so many keys: exp(64) is beyond 2^64, exp(89) infinite."""
    q, k = q.clone(), k.clone()
    q[..., 0] = 8 + 4 * torch.special.ndtr(q[..., 0])
    height, phase = torch.rand((2, k.shape[0], 1, k.shape[2]), generator=generator, device=k.device)
    stair = (torch.arange(k.shape[1], device=k.device)[None, :, None] + _STAIR * phase).div(_STAIR).floor()
    k[..., 0] = -math.sqrt(q.shape[-1]) / 8 * (64 + 32 * height) * stair
    return q, k, v


def _outrunning_rows(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """The same for few query rows, other ones in every head; for the others by 12 at most."""
    climbing, k, v = _outrunning_keys(q, k, v, generator)
    position = torch.arange(q.shape[1], device=q.device)[:, None]
    head = torch.arange(q.shape[2], device=q.device)
    few = (position + 5 * head) % 37 == 5  # in the second head the first row
    climbing[..., 0] = torch.where(few, climbing[..., 0], torch.special.ndtr(q[..., 0]))
    return climbing, k, v


def _near_overflow(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """V close to float16's largest value: an output that is not normalised in time is inf."""
    return q, k, (v * 20000).clamp(-60000, 60000)


def _far_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits of -3e8 for a random third of the keys."""
    return _hide(q, k, v, _some_keys(k, generator), 60000.0)


def _far_leading_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """The same for the first half of the keys: whole tiles count for nothing, the others still count."""
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) < k.shape[1] // 2, 60000.0)


def _far_trailing_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) >= k.shape[1] // 2, 60000.0)


def _overflow_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits of -inf in float32 for a random third of the keys; for bfloat16, which can hold the factors."""
    return _hide(q, k, v, _some_keys(k, generator), 1e20)


def _overflow_trailing_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """The same for the second half of the keys: tiles in which every logit is -inf, beside others."""
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) >= k.shape[1] // 2, 1e20)


def _some_keys(k: Tensor, generator: torch.Generator) -> Tensor:
    hidden = torch.rand(k.shape[1], generator=generator, device=k.device) < 0.3
    hidden[:1] = False  # the only key that the first row of a causal mask is sure to see
    return hidden


def _hide(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, magnitude: float) -> _Values:
    q, k = q.clone(), k.clone()
    q[..., 0] = magnitude
    k[..., 0] = torch.where(hidden, -magnitude, 0.0)[None, :, None]
    return q, k, v


def _nan_in_q(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """One query row is NaN: that row of the output is NaN, and no other."""
    q = q.clone()
    q[0, q.shape[1] // 2, 0] = torch.nan
    return q, k, v


def _inf_in_v(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """One value is infinite: its column is, in every row that sees it."""
    v = v.clone()
    v[0, v.shape[1] // 2, 0, 5] = torch.inf
    return q, k, v


VALUES: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], _Values]] = {
    "normal": _normal,
    "uniform": _uniform,
    "outliers": _outliers,
    "peaked": _peaked,
    "equal_logits": _equal_logits,
    "one_huge_logit": _one_huge_logit,
    "huge_logits": _huge_logits,
    "rising_keys": _rising_keys,
    "outrunning_keys": _outrunning_keys,
    "outrunning_rows": _outrunning_rows,
    "near_overflow": _near_overflow,
    "far_keys": _far_keys,
    "far_leading_keys": _far_leading_keys,
    "far_trailing_keys": _far_trailing_keys,
    "overflow_keys": _overflow_keys,
    "overflow_trailing_keys": _overflow_trailing_keys,
    "nan_in_q": _nan_in_q,
    "inf_in_v": _inf_in_v,
}
