"""The backward pass of operators that have no kernel for it: an operator that raises.

It is an operator so that a compiled graph, which is traced with its backward pass, can still run forward. It
returns the gradient of one input, so that no graph can leave it out, and takes the gradients of the results,
so that no graph can run it before the backward pass.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from flash_attn3._ops.operator import Operator

_library = torch.library.Library("flash_attn3", "FRAGMENT")
_library.define("refuse_backward(Tensor input, Tensor[] gradients) -> Tensor")


def _refuse(_input: Tensor, _gradients: list[Tensor]) -> NoReturn:
    raise NotImplementedError(
        "flash_attn3 has no kernel for this backward pass: combine and second derivatives have none; "
        "call combine under torch.no_grad(), and attention without create_graph=True"
    )


_library.impl("refuse_backward", _refuse, "CompositeExplicitAutograd")


def _check(_input: Tensor, _gradients: list[Tensor]) -> None:
    """Accept everything: a graph is traced with its backward pass, which may never run."""


def _describe(tensor: Tensor, _gradients: list[Tensor]) -> Tensor:
    return torch.empty_like(tensor)


REFUSE_BACKWARD = Operator("refuse_backward", kernel="combine", check=_check, describe=_describe)
