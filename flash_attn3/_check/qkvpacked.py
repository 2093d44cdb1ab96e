"""Packed tensors, which hold q, k and v."""

from __future__ import annotations

from torch import Tensor


def unpack(qkv: Tensor, num_heads_q: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return views of q, k and v in a qkv, whose shapes ``flash_attn3.flash_attn_qkvpacked_func`` describes.

    Raises:
        TypeError: qkv is no tensor.
        ValueError: qkv has a wrong shape, or num_heads_q does not fit it.
    """
    if not isinstance(qkv, Tensor):
        raise TypeError(f"qkv must be a torch.Tensor; its type is {type(qkv).__name__}")
    shape = qkv.shape
    if num_heads_q is None:
        if qkv.ndim != 5 or shape[2] != 3:
            raise ValueError(
                "qkv must have shape (batch, seqlen, 3, heads, head_dim) where num_heads_q is None; "
                f"its shape is {tuple(shape)}"
            )
        q, k, v = qkv.unbind(2)
        return q, k, v
    if qkv.ndim != 4:
        raise ValueError(
            "qkv must have 4 dimensions, (batch, seqlen, num_heads_q + 2 * heads_kv, head_dim), with "
            f"num_heads_q; its shape is {tuple(shape)}"
        )
    heads_kv = (shape[2] - num_heads_q) // 2  # symbolic sizes have no divmod
    if num_heads_q < 1 or heads_kv < 1 or num_heads_q + 2 * heads_kv != shape[2]:
        raise ValueError(
            "num_heads_q must leave an even number of heads, at least 2, of the "
            f"{shape[2]} heads of qkv; it is {num_heads_q}"
        )
    # Tensor.split is a slower Python wrapper of this.
    q, k, v = qkv.split_with_sizes((num_heads_q, heads_kv, heads_kv), dim=2)
    return q, k, v
