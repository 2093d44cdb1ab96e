"""Checks of the arguments of attention other than tensors, and the form in which the operators take them."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import torch


class Lengths(NamedTuple):
    """Where each sequence lies, in the order of the operators; the defaults are those of a dense batch."""

    cu_seqlens_q: Any = None
    cu_seqlens_k: Any = None
    max_seqlen_q: Any = 0
    max_seqlen_k: Any = 0
    seqused_q: Any = None
    seqused_k: Any = None
    page_table: Any = None


class Options(NamedTuple):
    """The options of the operators, in their order."""

    window_left: Any = -1
    window_right: Any = -1
    sink: Any = None
    softcap: Any = 0.0
    attention_chunk: Any = 0
    sm_margin: Any = 0


NO_LENGTHS = Lengths()


def check_scalars(softmax_scale: object, causal: object) -> None:
    """Refuse a softmax_scale that is neither a number nor None, or a causal that is no bool.

    Raises:
        TypeError: one of them has a wrong type.
    """
    numbers = (int, float, torch.SymFloat, torch.SymInt, type(None))
    if not isinstance(softmax_scale, numbers) or isinstance(softmax_scale, bool):
        raise TypeError(f"softmax_scale must be a float or None; its type is {type(softmax_scale).__name__}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool; its type is {type(causal).__name__}")


def resolve_options(  # noqa: PLR0917  by position: keywords cost host time
    window_size: Any,
    learnable_sink: Any,
    s_aux: Any,
    softcap: Any,
    attention_chunk: Any,
    sm_margin: Any,
    num_splits: Any,
    pack_gqa: Any,
    deterministic: Any,
    qv: Any,
    q_descale: Any,
    k_descale: Any,
    v_descale: Any,
) -> tuple[Any, ...]:
    """Return the first of `Options`, up to the last one that is given: each more costs host time.

    So an empty tuple means a call without options. A window side without a limit becomes -1. The sink is not
    checked here.

    Args:
        window_size: a pair of positions, -1 for no limit.
        learnable_sink: the sink, or None.
        s_aux: another name of learnable_sink.
        softcap: the cap, or 0.
        attention_chunk: positions a chunk, or 0.
        sm_margin: multiprocessors to leave free, 0 or more.
        num_splits: parts that the keys may be divided into, 0 or more; without effect.
        pack_gqa: a bool or None; without effect.
        deterministic: a bool; without effect, forward is always deterministic.
        qv: None; there is no kernel.
        q_descale: a tensor or None; without effect, it is for FP8, and an FP8 tensor is refused by itself.
        k_descale: likewise.
        v_descale: likewise.

    Raises:
        TypeError: a value has a wrong type.
        ValueError: a value is out of range, or two sinks are given.
        NotImplementedError: a value needs a kernel that does not exist yet.
    """
    # The one test for a call without options; every argument of this function takes part in it.
    if (
        (window_size == (-1, -1) and learnable_sink is None and s_aux is None)
        and (softcap == 0.0 and attention_chunk == 0 and sm_margin == 0)
        and (isinstance(num_splits, int) and num_splits >= 0 and isinstance(deterministic, bool))
        and (pack_gqa is None or isinstance(pack_gqa, bool))
        and (qv is None and q_descale is None and k_descale is None and v_descale is None)
    ):
        return ()
    # A quick test of the usual types stands before each call that takes the unusual ones, too.
    if not (qv is None and q_descale is None and k_descale is None and v_descale is None):
        _check_qv_and_descales(qv, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale)
    if type(softcap) is not float or not 0.0 <= softcap < math.inf:
        _check_softcap(softcap)
    if type(attention_chunk) is not int or attention_chunk < 0:
        attention_chunk = check_index("attention_chunk", attention_chunk, 0)
    if type(sm_margin) is not int or sm_margin < 0:
        sm_margin = check_index("sm_margin", sm_margin, 0)
    if not (
        (type(num_splits) is int and num_splits >= 0 and type(deterministic) is bool)
        and (pack_gqa is None or type(pack_gqa) is bool)
    ):
        _check_hints(num_splits, pack_gqa, deterministic)
    sink = s_aux if learnable_sink is None else learnable_sink
    if s_aux is not None and s_aux is not sink:
        raise ValueError("learnable_sink and s_aux are two names of one argument: give only one of them")
    left, right = (-1, -1) if window_size == (-1, -1) else _resolve_window(window_size)
    if softcap != 0.0 or attention_chunk != 0 or sm_margin != 0:
        return left, right, sink, softcap, attention_chunk, sm_margin
    if sink is not None:
        return left, right, sink
    return () if left == right == -1 else (left, right)


def _resolve_window(window_size: Any) -> tuple[int, int]:
    try:
        left, right = window_size
    except (TypeError, ValueError):
        raise TypeError(
            f"window_size must be a pair of integers (left, right); it is {window_size!r}"
        ) from None
    if type(left) is int and type(right) is int and left >= -1 and right >= -1:
        return left, right
    return check_index("window_size", left, -1), check_index("window_size", right, -1)


def _check_qv_and_descales(qv: Any, **descales: Any) -> None:
    if qv is not None:
        raise NotImplementedError(f"qv has no kernel yet: it must be None; its type is {type(qv).__name__}")
    for name, value in descales.items():
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor or None; its type is {type(value).__name__}")


def _check_softcap(softcap: Any) -> None:
    if not isinstance(softcap, (int, float)) or isinstance(softcap, bool):
        raise TypeError(f"softcap must be a float; its type is {type(softcap).__name__}")
    if not 0 <= softcap < math.inf:
        raise ValueError(f"softcap must be finite and 0 or more; it is {softcap}")


def _check_hints(num_splits: Any, pack_gqa: Any, deterministic: Any) -> None:
    check_index("num_splits", num_splits, 0)
    if pack_gqa is not None and not isinstance(pack_gqa, bool):
        raise TypeError(f"pack_gqa must be a bool or None; its type is {type(pack_gqa).__name__}")
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be a bool; its type is {type(deterministic).__name__}")


def check_index(name: str, value: Any, lowest: int) -> int:
    """Return an argument as an int; it may be a 0-dim integer tensor.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below ``lowest``.
    """
    if type(value) is int and value >= lowest:
        return value
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"{name} must be an integer; its type is {kind}, its value {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; it is {value}")
    if number < lowest:
        raise ValueError(f"{name} must be {lowest} or more; it is {number}")
    return number
