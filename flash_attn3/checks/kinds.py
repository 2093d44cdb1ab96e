"""Kinds of kernels of a wheel. Each is tested by itself: a call alone takes only the best that serves it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from flash_attn3 import _native
from flash_attn3._native import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flash_attn3.checks.outcome import Outcome

_LONGEST = (1 << 31) - 1


BESIDE = " + "
"""Between the names of the kernels of one call, in the order of their launches."""


@dataclass(frozen=True)
class Kind:
    """The kernels of one code: ``exact``, ``portable`` or ``ptx``.

    With ``as_long``, kernels for long sequences serve short ones, too, so that they run every case that they
    can.
    """

    code: Code
    as_long: bool = False

    @property
    def name(self) -> str:
        """``exact``, ``portable`` or ``ptx``; ``exact_long`` and so on with ``as_long``."""
        return self.code.name.lower() + "_long" * self.as_long

    def find_kernel(self, kernel: Callable[[], str]) -> str | None:
        """Return the kernel of this kind that serves a call, or its kernels; None if none does.

        With ``as_long``, only a kernel counts that the call would not take without: the kind without
        ``as_long`` runs the others.

        Args:
            kernel: returns the name of the kernel that the call would launch, as the library says; of several
                launches, joined by :data:`BESIDE`.

        Raises:
            NativeError: the library refused the call for another reason than that no kernel serves it.
        """
        found = self._find(kernel, self.as_long)
        return None if self.as_long and found == self._find(kernel, as_long=False) else found

    def _find(self, kernel: Callable[[], str], as_long: bool) -> str | None:
        with _allowed(self.code, as_long):
            try:
                return kernel()
            except _native.NativeError as error:
                if error.status != _native.Status.UNSUPPORTED:
                    raise
                return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Allow no other kernel in the whole process until the end of the context."""
        with _allowed(self.code, self.as_long):
            yield

    def label(self, name: str) -> str:
        """Return the name of a check that is run with these kernels alone."""
        return f"{name}@{self.name}"

    def mark(self, outcome: Outcome, kernel: str = "") -> Outcome:
        """Return the outcome of a check that was run with these kernels alone, with the kernel's name."""
        params = {**outcome.params, "kernels": self.code.name.lower()}
        params |= {"as_long": True} if self.as_long else {}
        params |= {"kernel": kernel} if kernel else {}
        return replace(outcome, name=self.label(outcome.name), params=params)


@contextmanager
def _allowed(code: Code, as_long: bool) -> Iterator[None]:
    _native.allow_kernels((code,), _LONGEST if as_long else 0)
    try:
        yield
    finally:
        _native.allow_kernels()


def kernels_on(device: torch.device, op: str) -> tuple[_native.Kernel, ...]:
    """Return the kernels of an operator that a GPU can run."""
    major, minor = torch.cuda.get_device_capability(device)
    kernels = _native.kernels()
    return tuple(kernel for kernel in kernels if kernel.op == op and kernel.runs_on(10 * major + minor))


def kinds_of(kernels: tuple[_native.Kernel, ...]) -> tuple[Kind, ...]:
    """Return the kinds of some kernels, the one that a call prefers first."""
    codes = {kernel.code for kernel in kernels}
    present = [code for code in Code if code.name.lower() in codes]
    return tuple(Kind(code, as_long) for code in present for as_long in (False, True))
