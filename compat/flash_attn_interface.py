"""The functions of FlashAttention-3 under the module name that its callers import.

Those without a leading underscore are those of flash_attn3. An argument without a kernel there raises
``NotImplementedError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import flash_attn_3._C  # noqa: F401  registers the operators
from flash_attn3 import (
    flash_attn_combine,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    get_scheduler_metadata,
)
from flash_attn_3._forward import flash_attn_forward as _flash_attn_forward

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "_flash_attn_backward",
    "_flash_attn_forward",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "get_scheduler_metadata",
]


def _flash_attn_backward(  # noqa: PLR0917  callers pass these by position
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    sequed_q: Tensor | None = None,
    sequed_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    softmax_scale: float | None = None,
    is_causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    deterministic: bool = False,
    sm_margin: int = 0,
) -> Tensor:
    """Write the gradients of q, k and v to dq, dk and dv, see ``flash_attn_3._backward``.

    Returns:
        The first result of the operator ``flash_attn_3::bwd``, a tensor without elements.

    Raises:
        TypeError, ValueError: an argument is wrong; the text names it.
    """
    softmax_d: Tensor
    softmax_d, *_ = torch.ops.flash_attn_3.bwd(
        *(dout, q, k, v, out, softmax_lse, dq, dk, dv),
        *(cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k, max_seqlen_q, max_seqlen_k),
        *(softmax_scale, is_causal, window_size_left, window_size_right, softcap, deterministic, sm_margin),
    )
    return softmax_d
