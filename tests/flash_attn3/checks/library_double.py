"""Stands for the C library where no GPU is: the choice of a kernel, and the switch that restricts it."""

from __future__ import annotations

from dataclasses import dataclass, field

from flash_attn3 import _native
from flash_attn3._native import Code, Dtype, NativeError, Status, combine

EVERY = (tuple(Code), 0)


@dataclass(frozen=True)
class Entry:
    """A kernel of the pack, with what the choice compares."""

    name: str
    code: str = "exact"
    op: str = "fwd"
    mask: str = "any"
    dtype: str = "bf16"
    head_dim: int = 64
    head_dim_v: int = 64
    min_seqlen_q: int = 0

    @property
    def kernel(self) -> _native.Kernel:
        return _native.Kernel(
            name=self.name,
            op=self.op,
            mask=self.mask,
            toolkit="12.8",
            sm=90,
            dtype_in=self.dtype,
            dtype_out=self.dtype,
            head_dim=self.head_dim,
            head_dim_v=self.head_dim_v,
            code=self.code,
        )

    @property
    def width(self) -> int:
        return self.head_dim + self.head_dim_v


@dataclass
class LibraryDouble:
    """``allow_kernels``, ``forward_kernel`` and ``combine_kernel`` of a pack with these entries."""

    entries: tuple[Entry, ...]
    allowed: tuple[tuple[Code, ...], int] = EVERY
    history: list[tuple[tuple[Code, ...], int]] = field(default_factory=list)

    def install(self, monkeypatch) -> None:
        monkeypatch.setattr(_native, "kernels", lambda: tuple(entry.kernel for entry in self.entries))
        monkeypatch.setattr(_native, "allow_kernels", self.allow_kernels)
        monkeypatch.setattr(_native, "forward_kernel", self.forward_kernel)
        monkeypatch.setattr(combine, "combine_kernel", self.combine_kernel)

    def allow_kernels(self, codes=EVERY[0], seqlen_q=EVERY[1]) -> None:
        self.allowed = (tuple(codes), seqlen_q)
        self.history.append(self.allowed)

    def forward_kernel(self, arguments: _native.FwdArgs) -> _native.Kernel:
        sequences = arguments.sequences
        ragged = sequences.cu_seqlens_q or sequences.seqused_q
        seqlen_q = max(0 if ragged else arguments.q.shape[1], self.allowed[1])
        return self._choose(
            lambda entry: (
                entry.op == "fwd"
                and entry.mask in {_mask(arguments), "any"}
                and entry.dtype == Dtype(arguments.q.dtype).name.lower()
                and entry.head_dim >= arguments.q.shape[3]
                and entry.head_dim_v >= arguments.v.shape[3]
                and entry.min_seqlen_q <= seqlen_q
            )
        )

    def combine_kernel(self, _arguments: combine.CombineArgs) -> _native.Kernel:
        return self._choose(lambda entry: entry.op == "combine")

    def _choose(self, serves) -> _native.Kernel:
        codes = [code.name.lower() for code in self.allowed[0]]
        serving = [entry for entry in self.entries if entry.code in codes and serves(entry)]
        if not serving:
            raise NativeError(Status.UNSUPPORTED, "no kernel")
        return min(serving, key=lambda e: (codes.index(e.code), e.width, -e.min_seqlen_q)).kernel


def _mask(arguments: _native.FwdArgs) -> str:
    mask = arguments.mask
    windowed = mask.window_left >= 0 or mask.window_right >= 0 or mask.attention_chunk > 0
    if windowed or arguments.scale.softcap > 0:
        return "local"
    return "causal" if mask.causal else "full"
