"""What a call of attention may be given, and the error for everything else.

The operator library checks the same things in C++, where it is fast, and can raise only ``RuntimeError``.
These checks run when it did, and when shapes are inferred without data, so that the caller gets the right
kind of error.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flash_attn3 import _native

if TYPE_CHECKING:
    from collections.abc import Mapping

_DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse q, k, v that attention forward cannot take.

    Raises:
        TypeError: one of them is no tensor or has a wrong dtype.
        ValueError: a device, rank or size does not fit.
        NotImplementedError: this build holds no kernel for the head_dim.
    """
    tensors = {"q": q, "k": k, "v": v}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; its type is {type(tensor).__name__}")
    for name, tensor in tensors.items():
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} must have 4 dimensions, (batch, seqlen, heads, head_dim); "
                f"its shape is {_shape(tensor)}"
            )
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} must be torch.float16 or torch.bfloat16; it is {tensor.dtype}")
        if tensor.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}; it is {tensor.dtype}")
        # A meta tensor has a shape and no data: there is nothing to run, and its result can be described.
        if tensor.device.type not in ("cuda", "meta"):
            raise ValueError(f"{name} must be a CUDA tensor; it is on {tensor.device}")
        if tensor.device != q.device:
            raise ValueError(f"{name} must be on the device of q, {q.device}; it is on {tensor.device}")
    _check_shapes(q, k, v)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("k", k), ("v", v)):
        if tensor.shape[0] != q.shape[0]:
            raise ValueError(
                f"{name} must have the batch size of q, {q.shape[0]}; its shape is {_shape(tensor)}"
            )
    if v.shape[1] != k.shape[1] or v.shape[2] != k.shape[2]:
        raise ValueError(f"v must have the seqlen and heads of k, {_shape(k)}; its shape is {_shape(v)}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2] != 0:
        raise ValueError(f"k must have a number of heads that divides q's {q.shape[2]}; it has {k.shape[2]}")
    if k.shape[3] != q.shape[3]:
        raise ValueError(f"k must have the head_dim of q, {q.shape[3]}; its shape is {_shape(k)}")
    held = {
        (kernel.head_dim, kernel.head_dim_v)
        for kernel in _native.kernels()
        if kernel.op == "fwd" and kernel.dtype == _DTYPES[q.dtype]
    }
    if not any(q.shape[3] == head_dim and v.shape[3] == head_dim_v for head_dim, head_dim_v in held):
        pairs = ", ".join(f"{head_dim}/{head_dim_v}" for head_dim, head_dim_v in sorted(held)) or "none"
        raise NotImplementedError(
            f"q has head_dim {q.shape[3]} and v has {v.shape[3]}; "
            f"this build has kernels for {q.dtype} with head_dim/head_dim_v {pairs}"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def check_scalars(softmax_scale: object, causal: object) -> None:
    """Refuse a softmax_scale that is no number or a causal that is no bool.

    Raises:
        TypeError: one of them has a wrong type.
    """
    if not isinstance(softmax_scale, (int, float, torch.SymFloat, torch.SymInt)) or isinstance(
        softmax_scale, bool
    ):
        raise TypeError(f"softmax_scale must be a float or None; its type is {type(softmax_scale).__name__}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool; its type is {type(causal).__name__}")


def check_options(
    *,
    attention_chunk: object,
    softcap: object,
    num_splits: object,
    pack_gqa: object,
    deterministic: object,
    sm_margin: object,
    absent: Mapping[str, object],
) -> None:
    """Refuse option values that are wrong, and those that have no kernel yet.

    Args:
        attention_chunk: 0.
        softcap: 0.
        num_splits: 0 (the library chooses) or 1.
        pack_gqa: a hint: a bool or None.
        deterministic: a bool; forward is always deterministic.
        sm_margin: multiprocessors to leave free, 0 or more.
        absent: by name, the arguments that have no kernel at all and must be None.

    Raises:
        TypeError: a value has a wrong type.
        ValueError: a value is out of range.
        NotImplementedError: a value asks for what no kernel does yet.
    """
    for name, value in absent.items():
        if value is not None:
            raise NotImplementedError(
                f"{name} has no kernel yet: it must be None; its type is {type(value).__name__}"
            )
    if not isinstance(softcap, (int, float)) or isinstance(softcap, bool):
        raise TypeError(f"softcap must be a float; its type is {type(softcap).__name__}")
    if not softcap >= 0:
        raise ValueError(f"softcap must be 0 or more; it is {softcap}")
    if softcap != 0:
        raise NotImplementedError(f"softcap has no kernel yet: it must be 0; it is {softcap}")
    if _index("attention_chunk", attention_chunk, 0) != 0:
        raise NotImplementedError(f"attention_chunk has no kernel yet: it must be 0; it is {attention_chunk}")
    if _index("num_splits", num_splits, 0) > 1:
        raise NotImplementedError(f"num_splits has no kernel yet: it must be 0 or 1; it is {num_splits}")
    _index("sm_margin", sm_margin, 0)
    if pack_gqa is not None and not isinstance(pack_gqa, bool):
        raise TypeError(f"pack_gqa must be a bool or None; its type is {type(pack_gqa).__name__}")
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be a bool; its type is {type(deterministic).__name__}")


def resolve_window(window_size: Any, causal: bool, seqlen_q: int, seqlen_k: int) -> bool:
    """Return whether the mask is causal, given a window that masks nothing more than that.

    Query row i stands at key position p = i + seqlen_k - seqlen_q and sees keys p - left to p + right; -1 is
    unlimited. ``causal`` makes right 0.

    Raises:
        TypeError: window_size is no pair of integers.
        ValueError: an element is below -1.
        NotImplementedError: the window masks keys that neither the full nor the causal kernel masks.
    """
    try:
        left, right = window_size
    except (TypeError, ValueError):
        raise TypeError(
            f"window_size must be a pair of integers (left, right); it is {window_size!r}"
        ) from None
    left, right = _index("window_size", left, -1), _index("window_size", right, -1)
    if causal:
        right = 0
    open_left = left < 0 or left >= seqlen_k - 1
    open_right = right < 0 or (right >= seqlen_q - 1 and not causal)
    if open_left and (open_right or right == 0):
        return not open_right
    raise NotImplementedError(
        "window_size has no kernel yet: it must mask nothing, as (-1, -1) does, or be causal, as (-1, 0) is; "
        f"it is ({left}, {right}) with seqlen_q {seqlen_q} and seqlen_k {seqlen_k}"
    )


def _index(name: str, value: Any, lowest: int) -> int:
    try:
        number = operator.index(value)  # a 0-dim integer tensor is an index, too
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"{name} must be an integer; its type is {kind}, its value {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; it is {value}")
    if number < lowest:
        raise ValueError(f"{name} must be {lowest} or more; it is {number}")
    return number
