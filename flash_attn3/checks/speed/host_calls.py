"""Calls of attention whose host time is measured."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func
from flash_attn3.checks.speed.host_time import HostCall
from flash_attn3.checks.speed.providers import CUDNN, FLASH, OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def forward_calls(device: torch.device) -> dict[str, HostCall]:
    """Return each public call, in every way that takes another path through the package, and torch's own."""
    q, k, v = _tensors(device)
    (pq, pk, pv), out = (tensor[0] for tensor in (q, k, v)), torch.empty_like(q)
    sink = torch.randn(q.shape[2], device=device)
    qkv = torch.stack((q, k, v), dim=2)
    pages = k.view(8, 16, *k.shape[2:])
    table = torch.arange(8, dtype=torch.int32, device=device)[None]
    used = torch.tensor([128], dtype=torch.int32, device=device)
    starts = torch.tensor([0, 128], dtype=torch.int32, device=device)
    window = (64, 0)
    calls: dict[str, Callable[[], object]] = {
        "": lambda: flash_attn_func(q, k, v),
        " causal": lambda: flash_attn_func(q, k, v, causal=True),
        " window": lambda: flash_attn_func(q, k, v, window_size=window),
        " softcap": lambda: flash_attn_func(q, k, v, softcap=20.0),
        " sink": lambda: flash_attn_func(q, k, v, learnable_sink=sink),
        " out": lambda: flash_attn_func(q, k, v, out=out),
        " qkvpacked": lambda: flash_attn_qkvpacked_func(qkv),
        " varlen": lambda: flash_attn_varlen_func(pq, pk, pv, starts, starts, 128, 128),
        " varlen window": lambda: flash_attn_varlen_func(
            pq, pk, pv, starts, starts, 128, 128, window_size=window
        ),
        " varlen sink": lambda: flash_attn_varlen_func(
            pq, pk, pv, starts, starts, 128, 128, learnable_sink=sink
        ),
        " varlen paged": lambda: flash_attn_varlen_func(
            pq, pages, pages, starts, None, 128, 128, seqused_k=used, page_table=table
        ),
    }
    return {f"{OURS}{way}": HostCall(call) for way, call in calls.items()} | _torch_calls(device)


def backward_calls(device: torch.device) -> dict[str, HostCall]:
    """Return the backward operator alone, and forward and backward through autograd, ours and torch's."""
    q, k, v = _tensors(device)
    dout, lse = torch.randn_like(q), torch.zeros(1, q.shape[2], q.shape[1], device=device)
    lq, lk, lv = (tensor.detach().requires_grad_() for tensor in (q, k, v))
    sq, sk, sv = (tensor.detach().transpose(1, 2).requires_grad_() for tensor in (q, k, v))

    def operator() -> object:
        return torch.ops.flash_attn3.bwd(dout, q, k, v, q, lse, None, None, True)

    def ours() -> object:
        return torch.autograd.grad(flash_attn_func(lq, lk, lv, causal=True), (lq, lk, lv), dout)

    def sdpa() -> object:
        out = scaled_dot_product_attention(sq, sk, sv, is_causal=True)
        return torch.autograd.grad(out, (sq, sk, sv), dout.transpose(1, 2))

    both = "forward and backward"
    return {
        f"{OURS} backward operator": HostCall(operator),
        f"{OURS} {both}": HostCall(ours),
        f"{CUDNN} {both}": HostCall(sdpa, partial(sdpa_kernel, SDPBackend.CUDNN_ATTENTION)),
        f"{FLASH} {both}": HostCall(sdpa, partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION)),
    }


def _torch_calls(device: torch.device) -> dict[str, HostCall]:
    q, k, v = (tensor.transpose(1, 2) for tensor in _tensors(device))
    call = partial(scaled_dot_product_attention, q, k, v)
    return {
        CUDNN: HostCall(call, partial(sdpa_kernel, SDPBackend.CUDNN_ATTENTION)),
        FLASH: HostCall(call, partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION)),
    }


def _tensors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(1, 128, 4, 128, device=device, dtype=torch.bfloat16) for _ in range(3))
    return q, k, v
