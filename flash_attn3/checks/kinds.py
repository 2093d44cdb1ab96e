"""The kinds of kernels that a wheel holds. Each is proven by itself, for the best one hides the others."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from flash_attn3 import _native
from flash_attn3._native import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.checks.cases.case import Case
    from flash_attn3.checks.outcome import Outcome


_LONGEST = (1 << 31) - 1


@dataclass(frozen=True)
class Kind:
    """The kernels of one code that one GPU can run.

    With ``as_long`` those for long sequences serve short ones, too, so that they meet every case.
    """

    code: Code
    kernels: tuple[_native.Kernel, ...]
    as_long: bool = False

    @property
    def name(self) -> str:
        """``exact``, ``portable`` or ``ptx``; and ``exact_long`` and so on."""
        return self.code.name.lower() + "_long" * self.as_long

    def covers(self, case: Case) -> bool:
        """Return whether one of the kernels can take a case; with ``as_long``, one for long sequences."""
        fitting = [kernel for kernel in self.kernels if _takes(kernel, case)]
        if not self.as_long:
            return bool(fitting)
        least = min((_width(kernel) for kernel in fitting), default=0)
        return any(_width(kernel) == least and _is_for_long(kernel, case) for kernel in fitting)

    @property
    def combines(self) -> bool:
        """Whether one of the kernels combines partial results."""
        return not self.as_long and any(kernel.op == "combine" for kernel in self.kernels)

    @property
    def head_dims(self) -> tuple[tuple[int, int], ...]:
        """(head_dim, head_dim_v) of the forward kernels, in order."""
        found = {(kernel.head_dim, kernel.head_dim_v) for kernel in self.kernels if kernel.op == "fwd"}
        return tuple(sorted(found))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other kernel be chosen meanwhile, in the whole process."""
        _native.allow_kernels((self.code,), _LONGEST if self.as_long else 0)
        try:
            yield
        finally:
            _native.allow_kernels()

    def label(self, name: str) -> str:
        """Return the name of a check that these kernels ran."""
        return f"{name}@{self.name}"

    def mark(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a check that these kernels ran, saying so."""
        params = {**outcome.params, "kernels": self.code.name.lower()}
        params |= {"as_long": True} if self.as_long else {}
        return replace(outcome, name=self.label(outcome.name), params=params)


def kinds_on(device: torch.device) -> tuple[Kind, ...]:
    """Return the kinds that a GPU can run, the one that it takes by itself first."""
    major, minor = torch.cuda.get_device_capability(device)
    runnable = [kernel for kernel in _native.kernels() if kernel.runs_on(10 * major + minor)]
    kinds: list[Kind] = []
    for code in Code:
        kernels = tuple(kernel for kernel in runnable if kernel.code == code.name.lower())
        if kernels:
            kinds.append(Kind(code, kernels))
        if any(kernel.min_seqlen_q > 0 for kernel in kernels):
            kinds.append(Kind(code, kernels, as_long=True))
    return tuple(kinds)


def _takes(kernel: _native.Kernel, case: Case) -> bool:
    """Return whether a kernel can take a case's dtype and head dimensions."""
    return (
        kernel.op == "fwd"
        and kernel.dtype == case.dtype
        and case.head_dim <= kernel.head_dim
        and (case.head_dim_v or case.head_dim) <= kernel.head_dim_v
    )


def _width(kernel: _native.Kernel) -> int:
    return kernel.head_dim + kernel.head_dim_v


def _is_for_long(kernel: _native.Kernel, case: Case) -> bool:
    general = case.window != (-1, -1) or case.attention_chunk > 0 or case.softcap > 0
    mask = "local" if general else "causal" if case.causal else "full"
    return kernel.min_seqlen_q > 0 and kernel.mask in {mask, "any"}
