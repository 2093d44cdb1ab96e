"""Attention backward in a race: the gradient alone, through autograd, of a forward call that is not timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3.checks.data.call import public_forward
from flash_attn3.checks.speed import race_attention
from flash_attn3.checks.speed.providers import CUDNN, FLASH, OURS
from flash_attn3.checks.truth.backward import judge_values
from flash_attn3.checks.truth.gradients import Loss, gradients
from flash_attn3.checks.truth.reference import Scoring, attention_fp64

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flash_attn3.checks.speed.race_attention import RaceInputs
    from flash_attn3.checks.speed.race_settings import BackwardSetting

    Forward = Callable[[BackwardSetting, RaceInputs], Tensor]

Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class BackwardRaceInputs:
    """Inputs of the forward call, the gradient of its output, and that output as each provider computed it.

    Attributes:
        attention: q, k and v, which require gradients.
        outs: provider -> its output, with the graph behind it; or why it has none.
    """

    attention: RaceInputs
    dout: Tensor
    outs: Mapping[str, Tensor | RuntimeError]

    @property
    def leaves(self) -> Results:
        """The tensors whose gradients are computed."""
        return self.attention.q, self.attention.k, self.attention.v


def random_inputs(setting: BackwardSetting, device: torch.device) -> BackwardRaceInputs:
    """Return fresh standard normal inputs of a setting, after the forward call of every provider."""
    inputs = race_attention.random_inputs(setting, device)
    for tensor in (inputs.q, inputs.k, inputs.v):
        tensor.requires_grad_()
    forwards: dict[str, Forward] = {
        OURS: _call_forward,
        CUDNN: race_attention.call_cudnn,
        FLASH: race_attention.call_flash,
    }
    outs = {name: _out_or_refusal(forward, setting, inputs) for name, forward in forwards.items()}
    return BackwardRaceInputs(inputs, torch.randn_like(inputs.q), outs)


def new_gradients(inputs: BackwardRaceInputs) -> Results:
    """Return NaN-filled tensors of the sizes of the gradients."""
    return tuple(torch.full_like(tensor, torch.nan) for tensor in inputs.leaves)


def call_ours(_setting: BackwardSetting, inputs: BackwardRaceInputs) -> Results:
    """Return (dq, dk, dv) of this package."""
    return _gradients(OURS, inputs)


def call_cudnn(_setting: BackwardSetting, inputs: BackwardRaceInputs) -> Results:
    """Return those of cuDNN through torch."""
    return _gradients(CUDNN, inputs)


def call_flash(_setting: BackwardSetting, inputs: BackwardRaceInputs) -> Results:
    """Return those of torch's own flash backend."""
    return _gradients(FLASH, inputs)


def judge_head(setting: BackwardSetting, inputs: BackwardRaceInputs, found: Results) -> tuple[str, ...]:
    """Judge the last head of the last sequence of timed gradients of full size against float64."""
    q, k, v, dout = (tensor.detach()[-1:, :, -1:] for tensor in (*inputs.leaves, inputs.dout))
    scoring = Scoring(setting.head_dim**-0.5, setting.causal, window=setting.window_size)
    forward = attention_fp64(q, k, v, scoring)
    exact, plain = (
        gradients((q, k, v), Loss(dout, None), scoring, forward, dtype) for dtype in (torch.float64, q.dtype)
    )
    judgement = judge_values(tuple(tensor[-1:, :, -1:] for tensor in found), exact, plain)
    return tuple(f"the last head of the timed gradients: {text}" for text in judgement.failures)


def _call_forward(setting: BackwardSetting, inputs: RaceInputs) -> Tensor:
    options = {"deterministic": setting.deterministic}
    return public_forward(inputs.q, inputs.k, inputs.v, None, setting.causal, **options)[0]


def _out_or_refusal(forward: Forward, setting: BackwardSetting, inputs: RaceInputs) -> Tensor | RuntimeError:
    try:
        return forward(setting, inputs)
    except RuntimeError as error:
        return error


def _gradients(provider: str, inputs: BackwardRaceInputs) -> Results:
    out = inputs.outs[provider]
    if isinstance(out, RuntimeError):
        raise out
    dout = inputs.dout if provider == OURS else inputs.dout.transpose(1, 2)  # torch's has heads first
    return torch.autograd.grad(out, inputs.leaves, dout, retain_graph=True)
