"""Values of q, k and v: standard normal float32 tensors, changed into something harder.

Each function takes q, k, v, each (batch, seqlen, heads, head_dim), and a random generator.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_Values = tuple[Tensor, Tensor, Tensor]


def _normal(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return q, k, v


def _uniform(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Positive values: nothing cancels, so a key that is counted twice or left out changes every column."""
    return (torch.special.ndtr(q), torch.special.ndtr(k), torch.special.ndtr(v))


def _outliers(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    def with_outliers(tensor: Tensor) -> Tensor:
        chosen = torch.rand(tensor.shape, generator=generator, device=tensor.device) < 0.001
        return tensor + 10 * tensor.flip(-1) * chosen

    return with_outliers(q), with_outliers(k), with_outliers(v)


def _peaked(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits of standard deviation 16: one key has nearly all the weight; the maximum moves between tiles."""
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
    """Logits in the thousands, whose exp is inf unless the maximum of the row is subtracted first."""
    return 30 * q, 30 * k, v


# What float16 and bfloat16 can both hold. Scores are about 2^31 * head_dim; their rounding errors, after the
# scale, are beyond the range of exp2.
_ENORMOUS = 60000.0


def _enormous_logits(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Equal logits of 4e9 and more: every weight is the same."""
    return torch.full_like(q, _ENORMOUS), torch.full_like(k, _ENORMOUS), v


def _enormous_negative_logits(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return torch.full_like(q, _ENORMOUS), torch.full_like(k, -_ENORMOUS), v


def _enormous_rows(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """The same for every seventh query row; the others have logits below 2."""
    position = torch.arange(q.shape[1], device=q.device)[:, None, None]
    enormous = (position % 7 == 3).expand_as(q)
    return torch.where(enormous, _ENORMOUS, 1e-6 * q), torch.full_like(k, _ENORMOUS), v


def _climbing_logits(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits that rise along the keys by 2^100 and fall again, those of every other query row negative.

    bfloat16 alone can hold the factors. Nothing is rounded: q and k are powers of two in one column and 0 in
    the others.
    """
    q, k = torch.zeros_like(q), torch.zeros_like(k)
    sign = 1 - 2 * (torch.arange(q.shape[1], device=q.device) % 2)
    q[..., 0] = (sign * 2.0**40)[None, :, None]
    key = torch.arange(k.shape[1], device=k.device)
    middle = k.shape[1] / 2
    climbed = (1 - (key - middle).abs() / max(middle, 1)) * 100
    k[..., 0] = torch.exp2(climbed.floor() - 60)[None, :, None]
    return q, k, v


# Kernels visit keys last to first, and keep the row maximum that they found first while scores grow slowly.
_STAIR = 180  # keys; more than a kernel's block, and no multiple of it


def _rising_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """Logits that rise by 6 to 12 from each 128 keys to those before them."""
    q, k = q.clone(), k.clone()
    q[..., 0] = 4 + 4 * torch.special.ndtr(q[..., 0])
    key = torch.arange(k.shape[1], device=k.device)
    k[..., 0] = -(math.sqrt(q.shape[-1]) / 8 * 12 / 128 * key)[None, :, None]
    return q, k, v


def _outrunning_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits that rise by 64 to 144 at once every _STAIR keys: exp(64) is beyond 2^64, exp(89) infinite."""
    q, k = q.clone(), k.clone()
    q[..., 0] = 8 + 4 * torch.special.ndtr(q[..., 0])
    height, phase = torch.rand((2, k.shape[0], 1, k.shape[2]), generator=generator, device=k.device)
    stair = (torch.arange(k.shape[1], device=k.device)[None, :, None] + _STAIR * phase).div(_STAIR).floor()
    k[..., 0] = -math.sqrt(q.shape[-1]) / 8 * (64 + 32 * height) * stair
    return q, k, v


def _outrunning_rows(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """The same for a few query rows, different ones in each head; in the other rows by 12 at most."""
    climbing, k, v = _outrunning_keys(q, k, v, generator)
    position = torch.arange(q.shape[1], device=q.device)[:, None]
    head = torch.arange(q.shape[2], device=q.device)
    few = (position + 5 * head) % 37 == 5  # in the second head the first row
    climbing[..., 0] = torch.where(few, climbing[..., 0], torch.special.ndtr(q[..., 0]))
    return climbing, k, v


def _near_overflow(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """V close to the largest float16: an output that is rounded before it is normalised is inf."""
    return q, k, (v * 20000).clamp(-60000, 60000)


def _far_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits of -3e8 for a random third of the keys."""
    return _hide(q, k, v, _some_keys(k, generator), 60000.0)


def _far_leading_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """The same for the first half of the keys: whole tiles have no weight."""
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) < k.shape[1] // 2, 60000.0)


def _far_trailing_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) >= k.shape[1] // 2, 60000.0)


def _overflow_keys(q: Tensor, k: Tensor, v: Tensor, generator: torch.Generator) -> _Values:
    """Logits of -inf in float32 for a random third of the keys; bfloat16 alone can hold the factors."""
    return _hide(q, k, v, _some_keys(k, generator), 1e20)


def _overflow_trailing_keys(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """The same for the second half of the keys: whole tiles of -inf beside others."""
    return _hide(q, k, v, torch.arange(k.shape[1], device=k.device) >= k.shape[1] // 2, 1e20)


def _some_keys(k: Tensor, generator: torch.Generator) -> Tensor:
    hidden = torch.rand(k.shape[1], generator=generator, device=k.device) < 0.3
    hidden[:1] = False  # a causal mask may leave the first row no other key
    return hidden


def _hide(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, magnitude: float) -> _Values:
    q, k = q.clone(), k.clone()
    q[..., 0] = magnitude
    k[..., 0] = torch.where(hidden, -magnitude, 0.0)[None, :, None]
    return q, k, v


def _nan_in_q(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """One query row is NaN: the same row of the output is NaN, and no other."""
    q = q.clone()
    q[0, q.shape[1] // 2, 0] = torch.nan
    return q, k, v


def _inf_in_v(q: Tensor, k: Tensor, v: Tensor, _generator: torch.Generator) -> _Values:
    """One value is infinite: so is its output column, in every row whose mask includes its key."""
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
    "enormous_logits": _enormous_logits,
    "enormous_negative_logits": _enormous_negative_logits,
    "enormous_rows": _enormous_rows,
    "climbing_logits": _climbing_logits,
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
