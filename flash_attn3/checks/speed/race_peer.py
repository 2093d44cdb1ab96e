"""The existing FlashAttention-3, raced in the same process if its shared library is given.

It is called through its operator, without the Python function of its users, which favours it in races.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flash_attn3.checks.speed.race_attention import RaceInputs
    from flash_attn3.checks.speed.race_settings import AttentionSetting


class PeerMissing(Exception):
    """A given library cannot be loaded, or none registers the operator."""


def load_peer(libraries: Sequence[Path]) -> None:
    """Load the libraries of the peer; the last one registers ``torch.ops.flash_attn_3.fwd``.

    Args:
        libraries: in the order of loading; for example a CUDA runtime that torch does not include, then
            the peer. Empty for no peer.

    Raises:
        PeerMissing: a library cannot be loaded, or the operator is not registered.
    """
    for library in libraries:
        _load(library)
    if libraries and not hasattr(torch.ops.flash_attn_3, "fwd"):
        raise PeerMissing(f"peer {libraries[-1]}: registers no torch.ops.flash_attn_3.fwd")


def _load(library: Path) -> None:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise PeerMissing(f"peer {library}: cannot be loaded: {error}") from error


def call_fa3(setting: AttentionSetting, inputs: RaceInputs) -> Tensor:
    """Call the forward operator of the peer without splits, by its schema of 34 arguments."""
    q, k, v, lengths = inputs.q, inputs.k, inputs.v, inputs.cu_seqlens
    longest = None if lengths is None else setting.seqlen
    left, right = setting.window_size
    result = torch.ops.flash_attn_3.fwd(
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
