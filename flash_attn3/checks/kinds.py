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

    from flash_attn3.checks.cases import Case
    from flash_attn3.checks.outcome import Outcome


@dataclass(frozen=True)
class Kind:
    """The kernels of one code that one GPU can run."""

    code: Code
    kernels: tuple[_native.Kernel, ...]

    @property
    def name(self) -> str:
        """``exact``, ``portable`` or ``ptx``."""
        return self.code.name.lower()

    def covers(self, case: Case) -> bool:
        """Return whether one of the kernels can take a case's dtype and head dimensions."""
        head_dim, head_dim_v = case.head_dim, case.head_dim_v or case.head_dim
        return any(
            kernel.op == "fwd"
            and kernel.dtype == case.dtype
            and head_dim <= kernel.head_dim
            and head_dim_v <= kernel.head_dim_v
            for kernel in self.kernels
        )

    @property
    def combines(self) -> bool:
        """Whether one of the kernels combines partial results."""
        return any(kernel.op == "combine" for kernel in self.kernels)

    @property
    def head_dims(self) -> tuple[tuple[int, int], ...]:
        """(head_dim, head_dim_v) of the forward kernels, in order."""
        found = {(kernel.head_dim, kernel.head_dim_v) for kernel in self.kernels if kernel.op == "fwd"}
        return tuple(sorted(found))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other kernel be chosen meanwhile, in the whole process."""
        _native.allow_kernels((self.code,))
        try:
            yield
        finally:
            _native.allow_kernels()

    def label(self, name: str) -> str:
        """Return the name of a check that these kernels ran."""
        return f"{name}@{self.name}"

    def mark(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a check that these kernels ran, saying so."""
        params = {**outcome.params, "kernels": self.name}
        return replace(outcome, name=self.label(outcome.name), params=params)


def kinds_on(device: torch.device) -> tuple[Kind, ...]:
    """Return the kinds that a GPU can run, the one that it takes by itself first."""
    major, minor = torch.cuda.get_device_capability(device)
    runnable = [kernel for kernel in _native.kernels() if kernel.runs_on(10 * major + minor)]
    groups = ((code, tuple(k for k in runnable if k.code == code.name.lower())) for code in Code)
    return tuple(Kind(code, kernels) for code, kernels in groups if kernels)
