"""Registers the operators ``flash_attn_3::`` when it is imported.

FlashAttention-3 has a compiled extension of this name, which callers import to get the operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import flash_attn_combine
from flash_attn_3._backward import flash_attn_backward
from flash_attn_3._forward import flash_attn_forward
from flash_attn_3._schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMESPACE = "flash_attn_3"


def _combine(
    out_partial: Tensor, lse_partial: Tensor, out: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    return flash_attn_combine(out_partial, lse_partial, out=out, out_dtype=out_dtype)


def _scheduler_metadata(
    _batch_size: int,
    _max_seqlen_q: int,
    _max_seqlen_k: int,
    _num_heads: int,
    _num_heads_k: int,
    _headdim: int,
    _headdim_v: int,
    _qkv_dtype: torch.dtype,
    seqused_k: Tensor,
    _cu_seqlens_q: Tensor | None = None,
    _cu_seqlens_k: Tensor | None = None,
    _cu_seqlens_k_new: Tensor | None = None,
    _seqused_q: Tensor | None = None,
    _leftpad_k: Tensor | None = None,
    *_options: Any,
) -> Tensor:
    """Return an empty plan: the kernels schedule themselves."""
    return seqused_k.new_empty(0, dtype=torch.int32)


def _register() -> torch.library.Library:
    """Define the operators and return the library object, which keeps them registered while it lives.

    Raises:
        ImportError: another provider has registered operators of these names in this process.
    """
    taken = [name for name in SCHEMAS if hasattr(getattr(torch.ops, _NAMESPACE), name)]
    if taken:
        raise ImportError(_second_provider(f"an operator {_NAMESPACE}::{taken[0]}"))
    try:
        library = torch.library.Library(_NAMESPACE, "DEF")
    except RuntimeError:
        raise ImportError(_second_provider(f"operators {_NAMESPACE}::")) from None
    for schema in SCHEMAS.values():
        library.define(schema)
    for name, function in (
        ("bwd", flash_attn_backward),
        ("fwd", flash_attn_forward),
        ("fwd_combine", _combine),
        ("get_scheduler_metadata", _scheduler_metadata),
    ):
        _implement(library, name, function)
    return library


def _implement(library: torch.library.Library, name: str, function: Callable[..., Any]) -> None:
    # A caller below autograd, such as the attention of PyTorch, records gradients itself.
    below_autograd = torch.no_grad()(function)
    # For CPU tensors the error of the function names the device; that of torch would name dispatch keys.
    for key in ("CUDA", "CPU"):
        library.impl(name, below_autograd, key)
    # Every other call runs the operators of flash_attn3 with their backward passes.
    library.impl(name, function, "Autograd")
    torch.library.register_fake(f"{_NAMESPACE}::{name}", below_autograd, lib=library)


def _second_provider(what: str) -> str:
    return (
        f"flash_attn_3 of flash_attn3: this process already has {what}, from another FlashAttention-3 or a "
        "library that brings one along: import only one of them, or import flash_attn3, whose operators have "
        "a name of their own"
    )


_library = _register()
