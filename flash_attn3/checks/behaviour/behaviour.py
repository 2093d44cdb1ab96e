"""A behaviour: what a function must do beside computing the right values, and how such a check is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from flash_attn3.checks.outcome import Outcome

# (function under test, device) -> one sentence for each failure
Behaviour = Callable[[Callable[..., Any], torch.device], Iterator[str]]


def run_behaviour(
    name: str, behaviour: Behaviour, function: Callable[..., Any], device: torch.device
) -> Outcome:
    """Run one behaviour. An exception is a failure of the check."""
    try:
        failures = tuple(behaviour(function, device))
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001  whatever it raises, the check failed and the next one runs
        failures = (f"raised {type(error).__name__}: {error}",)
    return Outcome("behaviour", name, {}, {}, failures)
