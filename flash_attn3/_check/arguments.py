"""What the options of a call may be, and the error for everything else. ``_tensors`` checks the tensors."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

# What the operators call the lengths of a dense call: cu_seqlens and max_seqlen of q and of k, seqused of q
# and of k, page_table.
NO_LENGTHS = (None, None, 0, 0, None, None, None)


def check_scalars(softmax_scale: object, causal: object) -> None:
    """Refuse a softmax_scale that is neither a number nor None, or a causal that is no bool.

    Raises:
        TypeError: one of them has a wrong type.
    """
    kinds = (int, float, torch.SymFloat, torch.SymInt, type(None))
    if not isinstance(softmax_scale, kinds) or isinstance(softmax_scale, bool):
        raise TypeError(f"softmax_scale must be a float or None; its type is {type(softmax_scale).__name__}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool; its type is {type(causal).__name__}")


def resolve_options(  # noqa: PLR0917  by position: an eager call has no microsecond to spend on names
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
    """Return (left, right, sink, softcap, attention_chunk, sm_margin) as the operators take them.

    What follows on the last one that is given is left out: each takes time, and its default there less. The
    window is -1 where it has no limit. The sink is not looked at.

    Args:
        window_size: a pair of positions, -1 for no limit.
        learnable_sink: the sink, which goes by two names, or None.
        s_aux: the other one.
        softcap: the cap, or 0.
        attention_chunk: positions a chunk, or 0.
        sm_margin: multiprocessors to leave free, 0 or more.
        num_splits: parts that the keys may be cut into, 0 or more; they are never cut.
        pack_gqa: a hint: a bool or None.
        deterministic: a bool; forward is always deterministic.
        qv: has no kernel at all and must be None, and so must the descales.
        q_descale: None.
        k_descale: None.
        v_descale: None.

    Raises:
        TypeError: a value has a wrong type.
        ValueError: a value is out of range, or two sinks are given.
        NotImplementedError: a value asks for what no kernel does yet.
    """
    if not (
        (type(softcap) is float and 0.0 <= softcap < math.inf and attention_chunk == 0 and sm_margin == 0)
        and (isinstance(num_splits, int) and num_splits >= 0 and isinstance(deterministic, bool))
        and (pack_gqa is None or isinstance(pack_gqa, bool))
        and (qv is None and q_descale is None and k_descale is None and v_descale is None)
    ):
        _check_absent(qv=qv, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale)
        _check_softcap(softcap)
        _index("attention_chunk", attention_chunk, 0)
        _index("num_splits", num_splits, 0)
        _index("sm_margin", sm_margin, 0)
        _check_hints(pack_gqa, deterministic)
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
    return _index("window_size", left, -1), _index("window_size", right, -1)


def _check_absent(**absent: Any) -> None:
    for name, value in absent.items():
        if value is not None:
            raise NotImplementedError(
                f"{name} has no kernel yet: it must be None; its type is {type(value).__name__}"
            )


def _check_softcap(softcap: Any) -> None:
    if not isinstance(softcap, (int, float)) or isinstance(softcap, bool):
        raise TypeError(f"softcap must be a float; its type is {type(softcap).__name__}")
    if not 0 <= softcap < math.inf:
        raise ValueError(f"softcap must be finite and 0 or more; it is {softcap}")


def _check_hints(pack_gqa: Any, deterministic: Any) -> None:
    if pack_gqa is not None and not isinstance(pack_gqa, bool):
        raise TypeError(f"pack_gqa must be a bool or None; its type is {type(pack_gqa).__name__}")
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic must be a bool; its type is {type(deterministic).__name__}")


def _index(name: str, value: Any, lowest: int) -> int:
    if type(value) is int and value >= lowest:
        return value
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
