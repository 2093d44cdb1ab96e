"""``OpCheck``: everything that the checks need of one operator. The runner knows no operator by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flash_attn3.checks.behaviour.canary import MemoryCheck, OutBuffer, Results

if TYPE_CHECKING:
    import torch

    from flash_attn3._native import Kernel
    from flash_attn3.checks.behaviour.behaviour import Behaviour
    from flash_attn3.checks.speed.host_time import HostCall
    from flash_attn3.checks.speed.race import Races, Setting
    from flash_attn3.checks.truth.rule import Judgement


class Case(Protocol):
    """One call of an operator: plain data, the same on every machine."""

    @property
    def name(self) -> str:
        """Unique among the operator's cases; reports keep it."""

    @property
    def category(self) -> str:
        """What it tests, one of the operator's ``categories``."""

    def params(self) -> dict[str, Any]:
        """Return the case as plain data for JSON."""


@dataclass(frozen=True)
class Selection:
    """Which cases to run: a small selection, or all fixed ones and ``samples`` random ones from ``seed``."""

    quick: bool = False
    samples: int = 0
    seed: int = 1


CaseT = TypeVar("CaseT", bound=Case)
InputsT = TypeVar("InputsT")
TruthT = TypeVar("TruthT")
Function = Callable[..., Results]


@dataclass(frozen=True)
class Selftest(Generic[CaseT]):
    """The part of an operator's checks that ``python -m flash_attn3 selftest`` runs, in seconds.

    Attributes:
        cases: the cases to run.
        memory: memory checks to run.
        behaviours: names of behaviours to run.
        setting: the setting to race, given the operator's kernels for this GPU; None for no race.
    """

    cases: Callable[[], Sequence[CaseT]]
    memory: Callable[[], Sequence[MemoryCheck[CaseT]]] = tuple
    behaviours: tuple[str, ...] = ()
    setting: Callable[[Sequence[Kernel]], Setting] | None = None


@dataclass(frozen=True)
class OpCheck(Generic[CaseT, InputsT, TruthT]):
    """The checks of one operator.

    Attributes:
        op: name of the operator in the kernel table.
        section: name of the section of its cases, on the command line and in reports.
        categories: what its cases test. A wheel is proven by some cases of each category with each kernel.
        function: the public function, in the form that ``call`` calls.
        cases: the cases to run.
        on_ptx: whether PTX kernels run a case, too: the driver takes seconds to compile each.
        inputs: the inputs of a case on a device; equal for equal cases.
        call: calls a function on inputs, with more options such as ``out``; returns (out, lse).
        truth: what a result is judged against, in float64.
        judge: judges the result of a call.
        kernel: returns a function that returns the name of the kernel which a call would launch, see
            ``data.forward_abi.forward_kernel``; of several launches, their names (``kinds.BESIDE``).
        out_buffer: a buffer for ``out``, given the case and the result of the call without: each case is then
            also run with ``out``. None: the memory checks cover ``out``.
        selftest: what ``selftest`` runs.
        memory: checks of what a call writes.
        behaviours: run once with the kernels of each kind alone.
        mixed_behaviours: run with all kernels, for calls that the kernels of one kind do not serve.
        fresh: checks that need a process of their own: functions of a module, without arguments.
        races: races against other implementations.
        host_calls: calls whose host time is measured, by provider.
    """

    op: str
    section: str
    categories: tuple[str, ...]
    function: Function
    cases: Callable[[Selection], Sequence[CaseT]]
    on_ptx: Callable[[CaseT], bool]
    inputs: Callable[[CaseT, torch.device], InputsT]
    call: Callable[..., Results]
    truth: Callable[[CaseT, InputsT], TruthT]
    judge: Callable[[CaseT, InputsT, TruthT, Results], Judgement]
    kernel: Callable[[CaseT, InputsT], Callable[[], str]]
    selftest: Selftest[CaseT]
    out_buffer: Callable[[CaseT, Results], OutBuffer] | None = None
    memory: Callable[[], Sequence[MemoryCheck[CaseT]]] = tuple
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    mixed_behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    fresh: Mapping[str, Callable[[], list[str]]] = field(default_factory=dict)
    races: Races[Any, Any, Any] | None = None
    host_calls: Callable[[torch.device], Mapping[str, HostCall]] = lambda _device: {}
