"""The existing FlashAttention-3, raced in the same process if its shared library is given.

It is called through its operator, without the Python function of its users, which favours it in races.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flash_attn3.checks.speed.race_attention import RaceInputs
    from flash_attn3.checks.speed.race_settings import AttentionSetting


# Where builds of the peer register its operator: FlashAttention-3, and a package with its forward alone.
NAMESPACES = ("flash_attn_3", "fa3_fwd")


class PeerMissing(Exception):
    """A given library cannot be loaded, or none registers the operator."""


def load_peer(libraries: Sequence[Path]) -> None:
    """Load the libraries of the peer; the last one registers ``fwd`` in one of ``NAMESPACES``.

    Args:
        libraries: in the order of loading; for example a CUDA runtime that torch does not include, then
            the peer. Empty for no peer.

    Raises:
        PeerMissing: a library cannot be loaded, or the operator is not registered.
    """
    for library in libraries:
        _load(library)
    if libraries and _operator() is None:
        names = " or ".join(f"torch.ops.{namespace}.fwd" for namespace in NAMESPACES)
        raise PeerMissing(f"peer {libraries[-1]}: registers no {names}")


def _operator() -> Callable[..., Sequence[Tensor]] | None:
    found = (getattr(getattr(torch.ops, namespace), "fwd", None) for namespace in NAMESPACES)
    return next((operator for operator in found if operator is not None), None)


def _load(library: Path) -> None:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise PeerMissing(f"peer {library}: cannot be loaded: {error}") from error


def call_fa3(setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    """Call the forward operator of the peer without splits, by its schema of 34 arguments.

    Raises:
        PeerMissing: no peer was loaded.
    """
    q, k, v, lengths = inputs.q, inputs.k, inputs.v, inputs.cu_seqlens
    longest = None if lengths is None else setting.seqlen
    left, right = setting.window_size
    operator = _operator()
    if operator is None:
        raise PeerMissing("peer: no operator is registered; load_peer comes first")
    result = operator(
        *(q, k, v),
        *(None, None, None, None),  # k_new, v_new, q_v, out
        *(lengths, lengths, None),  # cu_seqlens of q, of k and of k_new
        *(None, None, longest, longest),  # seqused and max_seqlen of q and of k
        *(None, None, None),  # page_table, kv_batch_idx, leftpad_k
        *(None, None, None),  # rotary_cos, rotary_sin, seqlens_rotary
        *(None, None, None),  # descale of q, of k and of v
        *(setting.head_dim**-0.5, setting.causal, left, right),
        *(0, 0.0, True),  # attention_chunk, softcap, is_rotary_interleaved
        *(None, 1, None, 0),  # scheduler_metadata, num_splits, pack_gqa, sm_margin
    )
    out: Tensor = result[0]
    return out
