"""Settings of attention races: plain data, the same on every machine."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from flash_attn3.checks.speed.bars import best_backward_over_cudnn, best_over_cudnn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flash_attn3._native import Kernel

TOKENS = 16384
VARLEN_TOKENS = 32768
HIDDEN = 2048
SEQLENS = (512, 1024, 2048, 4096, 16384)
_FEW_SEQLENS = (1024, 4096, 16384)
_BARS = ((64, 64), (128, 128), (256, 256))  # head dimensions for which ``bars`` lists the best forward
_WINDOW = 1024
_GROUP = 8
_BACKWARD_SEQLENS = (512, 1024, 4096, 16384)
_DETERMINISTIC_SEQLENS = (1024, 4096)
_BACKWARD_FLOPS = 2.5  # of those of the forward call: five products instead of two


@dataclass(frozen=True)
class AttentionSetting:
    """One call: ``TOKENS`` tokens and a hidden size of ``HIDDEN`` over all heads.

    Attributes:
        seqlen: of every sequence, or of the longest.
        head_dim_v: None for head_dim.
        group: query heads a key/value head.
        window: visible keys before the position of a query; None for all.
        varlen: whether sequences of different ``lengths`` are packed.
    """

    dtype: str
    head_dim: int
    causal: bool
    seqlen: int
    head_dim_v: int | None = None
    group: int = 1
    window: int | None = None
    varlen: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the sequences; with varlen log-uniform from 128 to seqlen, always the same."""
        if not self.varlen:
            return (self.seqlen,) * (TOKENS // self.seqlen)
        draw = random.Random(0)  # noqa: S311  test data, not secrets
        lengths = [self.seqlen]
        while sum(lengths) < VARLEN_TOKENS:
            length = round(128 * (self.seqlen / 128) ** draw.random())
            lengths.append(max(128, min(length, VARLEN_TOKENS - sum(lengths))))
        return tuple(lengths)

    @property
    def batch(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    @property
    def heads(self) -> int:
        """The number of heads that make up the hidden size, in whole groups."""
        return HIDDEN // self.head_dim // self.group * self.group

    @property
    def window_size(self) -> tuple[int, int]:
        """(left, right) of the mask, -1 for no limit."""
        return (-1 if self.window is None else self.window, 0 if self.causal else -1)

    @property
    def plain(self) -> bool:
        """Whether ``bars`` may list the setting: a length, a head_dim and a mask only."""
        return self.head_dim_v is None and self.group == 1 and self.window is None and not self.varlen

    @property
    def flops(self) -> float:
        """Floating-point operations of one call, of visible keys only."""
        pairs = 0.0
        for length in self.lengths:
            pairs += length**2 / 2 if self.causal else length**2
            if self.window is not None and self.window < length:
                pairs -= (length - self.window) ** 2 / 2
        return 2.0 * pairs * self.heads * (self.head_dim + (self.head_dim_v or self.head_dim))

    @property
    def best_over_cudnn(self) -> float | None:
        """Speed of the best forward known, as a multiple of cuDNN's; None where none was measured."""
        return best_over_cudnn(self.head_dim, self.causal, self.seqlen) if self.plain else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "batch": self.batch, "heads": self.heads}

    @property
    def name(self) -> str:
        """The setting in one word."""
        parts = [
            self.dtype,
            f"d{self.head_dim}" + (f"x{self.head_dim_v}" if self.head_dim_v else ""),
            "causal" if self.causal else "full",
            *([f"gqa{self.group}"] if self.group > 1 else []),
            *([f"window{self.window}"] if self.window is not None else []),
            *(["varlen"] if self.varlen else []),
            f"s{self.seqlen}",
        ]
        return "_".join(parts)


@dataclass(frozen=True)
class BackwardSetting(AttentionSetting):
    """The gradient of one call.

    Attributes:
        deterministic: whether ours adds in an order of its own, so that its bits repeat.
    """

    deterministic: bool = False

    @property
    def flops(self) -> float:
        """Floating-point operations of the gradient alone."""
        return _BACKWARD_FLOPS * super().flops

    @property
    def best_over_cudnn(self) -> float | None:
        """Speed of the best gradient known, as a multiple of cuDNN's; None where none was measured."""
        if not self.plain or self.deterministic:
            return None
        return best_backward_over_cudnn(self.head_dim, self.causal, self.seqlen)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"op": "bwd", **super().as_dict()}

    @property
    def name(self) -> str:
        """The setting in one word."""
        return f"bwd_{super().name}{'_deterministic' if self.deterministic else ''}"


def head_dims(kernels: Sequence[Kernel]) -> tuple[tuple[int, int], ...]:
    """Return (head_dim, head_dim_v) of kernels, in order."""
    return tuple(sorted({(kernel.head_dim, kernel.head_dim_v) for kernel in kernels}))


def settings(quick: bool, head_dims: Sequence[tuple[int, int]]) -> tuple[AttentionSetting, ...]:
    """Return the settings to race, all bf16.

    Args:
        quick: a small selection.
        head_dims: (head_dim, head_dim_v) of the kernels.
    """
    if quick:
        return tuple(_both_masks(head_dims, (1024, 4096)))
    return tuple(_all(head_dims))


def portable_settings() -> tuple[AttentionSetting, ...]:
    """Return the settings in which portable kernels should reach ``bars.PORTABLE_OVER_FLASH``."""
    return tuple(_both_masks(((64, 64), (128, 128)), _FEW_SEQLENS))


def backward_settings(quick: bool, head_dims: Sequence[tuple[int, int]]) -> tuple[BackwardSetting, ...]:
    """Return the gradients to race, all bf16; the arguments are those of ``settings``."""
    dims = [head_dim for head_dim, head_dim_v in head_dims if (head_dim, head_dim_v) in _BARS]
    if quick:
        return tuple(_backward(dims, (1024,)))
    deterministic = _backward(dims, _DETERMINISTIC_SEQLENS)
    return (
        *_backward(dims, _BACKWARD_SEQLENS),
        *(replace(setting, deterministic=True) for setting in deterministic),
    )


def portable_backward_settings() -> tuple[BackwardSetting, ...]:
    """Return the gradients that are raced with portable kernels, too."""
    return tuple(_backward((64, 128), _FEW_SEQLENS))


def _backward(head_dims: Sequence[int], seqlens: Sequence[int]) -> Iterator[BackwardSetting]:
    for head_dim in head_dims:
        for causal in (False, True):
            for seqlen in seqlens:
                yield BackwardSetting("bf16", head_dim, causal, seqlen)


def _all(head_dims: Sequence[tuple[int, int]]) -> Iterator[AttentionSetting]:
    bars = [pair for pair in head_dims if pair in _BARS]
    yield from _both_masks(bars, SEQLENS)
    yield from _both_masks([pair for pair in head_dims if pair not in _BARS], _FEW_SEQLENS)
    for head_dim, _ in bars:
        if head_dim != 128:
            continue
        for causal in (False, True):
            for seqlen in _FEW_SEQLENS:
                yield AttentionSetting("bf16", head_dim, causal, seqlen, group=_GROUP)
            yield AttentionSetting("bf16", head_dim, causal, 16384, varlen=True)
        for seqlen in (4096, 16384):
            yield AttentionSetting("bf16", head_dim, True, seqlen, window=_WINDOW)


def _both_masks(head_dims: Sequence[tuple[int, int]], seqlens: Sequence[int]) -> Iterator[AttentionSetting]:
    for head_dim, head_dim_v in head_dims:
        for causal in (False, True):
            for seqlen in seqlens:
                yield AttentionSetting(
                    "bf16", head_dim, causal, seqlen, None if head_dim_v == head_dim else head_dim_v
                )
