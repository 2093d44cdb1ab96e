"""Runs one case of an operator: inputs, the call, the truth, the judgement."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic

from flash_attn3.checks.behaviour.canary import find_wrong_writes
from flash_attn3.checks.ops.opcheck import CaseT, InputsT, TruthT
from flash_attn3.checks.outcome import Outcome
from flash_attn3.checks.truth.rule import Judgement

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from flash_attn3.checks.behaviour.canary import Results
    from flash_attn3.checks.ops.opcheck import Function, OpCheck


class Trial(Generic[CaseT, InputsT, TruthT]):
    """One case on one device. Its inputs and its truth are computed once, for every kernel that runs it."""

    def __init__(self, check: OpCheck[CaseT, InputsT, TruthT], case: CaseT, device: torch.device) -> None:
        self.case = case
        self._check = check
        self._device = device

    @cached_property
    def inputs(self) -> InputsT:
        """Inputs of the call."""
        return self._check.inputs(self.case, self._device)

    @cached_property
    def truth(self) -> TruthT:
        """What a result is judged against."""
        return self._check.truth(self.case, self.inputs)

    @cached_property
    def kernel(self) -> Callable[[], str]:
        """A function that returns the name of the kernel which the call would launch at that time."""
        return self._check.kernel(self.case, self.inputs)

    def run(self, function: Function) -> Outcome:
        """Call ``function`` and judge its result. An exception from a call is a failure of the case."""
        try:
            result = self._call(function)
        except Exception as error:  # noqa: BLE001  whatever it raises, the case failed and the next one runs
            return self.failed(error)
        judgement = self._check.judge(self.case, self.inputs, self.truth, result)
        if self._check.out_buffer is not None and not judgement.failures:
            judgement.failures += self._find_wrong_writes(function, result)
        return self._outcome(judgement)

    def failed(self, error: Exception) -> Outcome:
        """Return the outcome of a case that an exception ended."""
        return self._outcome(Judgement(failures=[_raised(error)]))

    def _call(self, function: Function, **options: Any) -> Results:
        return self._check.call(function, self.case, self.inputs, **options)

    def _find_wrong_writes(self, function: Function, result: Results) -> list[str]:
        """Run the case again with ``out``, which must give the same bits and write nothing else."""
        if self._check.out_buffer is None:
            return []
        buffer = self._check.out_buffer(self.case, result)
        try:
            return list(find_wrong_writes(lambda out: self._call(function, out=out), result, buffer))
        except Exception as error:  # noqa: BLE001  see run
            return [f"with out: {_raised(error)}"]

    def _outcome(self, judgement: Judgement) -> Outcome:
        figures, failures = judgement.figures, tuple(judgement.failures)
        return Outcome(
            self._check.section, self.case.name, self.case.params(), figures, failures, self.case.category
        )


def _raised(error: Exception) -> str:
    return f"raised {type(error).__name__}: {error}"


def run_case(
    check: OpCheck[CaseT, InputsT, TruthT],
    case: CaseT,
    device: torch.device,
    function: Function | None = None,
) -> Outcome:
    """Run one case once with the public function, or another one, and judge it."""
    return Trial(check, case, device).run(function or check.function)
