"""A cache of keys and values as attention reads it: its lengths, its entries, its rows behind a padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flash_attn3._check.arguments import Lengths
from flash_attn3._check.cache import check_index_tensor
from flash_attn3._check.tensors import require_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class Cache(NamedTuple):
    """Arguments of a call that say where the sequences lie in the cache; the public function has them all."""

    k_cache: Tensor
    v_cache: Tensor
    cache_batch_idx: Any = None
    cache_leftpad: Any = None
    page_table: Any = None

    @property
    def room(self) -> int:
        """Rows of a sequence."""
        return self.k_cache.shape[1] * (1 if self.page_table is None else self.page_table.shape[1])


class Keys(NamedTuple):
    """k and v of attention, and the `Lengths` of their sequences."""

    k: Tensor
    v: Tensor
    lengths: Lengths


def resolve_lengths(given: Any, cache: Cache, batch: int, appended: int = 0) -> Tensor:
    """Return the number of rows of each sequence, (batch,) int32.

    Args:
        given: a number for all sequences, a tensor, or None for all rows of the cache.
        cache: the cache.
        batch: the number of sequences.
        appended: rows that each sequence gets.

    Raises:
        TypeError: the lengths have another type.
        ValueError: one number for all is negative, or the cache has no room for it.
    """
    if isinstance(given, Tensor):
        if given.dtype != torch.int32:
            raise TypeError(f"cache_seqlens must be torch.int32; it is {given.dtype}")
        return given
    room = cache.room
    length = room if given is None else given
    if not isinstance(length, int) or isinstance(length, bool):
        raise TypeError(
            f"cache_seqlens must be an int, a tensor or None; its type is {type(length).__name__}"
        )
    if not 0 <= length <= room:
        raise ValueError(f"cache_seqlens must be 0 to {room}, the cache's room; it is {length}")
    if length + appended > room:
        raise ValueError(
            f"cache_seqlens must be 0 to {room - appended}, which leaves room for the {appended} new rows of "
            f"each sequence; it is {length}"
        )
    return torch.full((batch,), length, dtype=torch.int32, device=cache.k_cache.device)


def place_keys(cache: Cache, seqlens: Tensor | None, batch: int) -> Keys:
    """Return k, v and lengths with which attention reads the cache, without a copy of it.

    Args:
        cache: the cache.
        seqlens: rows in use of each sequence, the padding among them; None: all rows, in a cache without
            pages, entries of another order and padding.
        batch: the number of sequences.

    Raises:
        TypeError: cache_batch_idx or cache_leftpad is no int32 tensor.
        ValueError: one of them has another shape or device.
        NotImplementedError: cache_batch_idx is given beside page_table, or cache_leftpad with a cache whose
            rows are no one sequence.
    """
    k, v, entries, leftpad, table = cache
    for name, array in (("cache_batch_idx", entries), ("cache_leftpad", leftpad)):
        if array is not None:
            check_index_tensor(name, array, k, "k_cache")
            if tuple(array.shape) != (batch,):
                raise ValueError(f"{name} must have shape ({batch},); its shape is {tuple(array.shape)}")
    if entries is not None and table is not None:
        raise NotImplementedError(
            "cache_batch_idx has no kernel with page_table: it must be None; select rows of page_table"
        )
    if entries is not None:
        table = entries.contiguous().unsqueeze(1)  # an entry of the cache is one page
    if leftpad is None:
        return Keys(k, v, Lengths(seqused_k=seqlens, page_table=table))
    if not all(_is_one_sequence(tensor) for tensor in (k, v)):
        raise NotImplementedError(
            "cache_leftpad has no kernel for a cache whose batch items or pages do not follow one another: "
            f"the strides of k_cache and v_cache are {k.stride()} and {v.stride()}"
        )
    room = k.shape[1] * (1 if table is None else table.shape[1])
    padding = leftpad.clamp(0, room)
    assert seqlens is not None  # noqa: S101  of the caller
    used = (seqlens.clamp(max=room) - padding).clamp(min=0)
    if table is None:
        return _behind_padding(k, v, padding, used)
    return _rows_as_pages(k, v, table, padding, used)


def _is_one_sequence(tensor: Tensor) -> bool:
    """Whether the rows of all batch items or pages are equally far apart."""
    entries, rows = tensor.shape[:2]
    return bool(entries <= 1 or rows <= 1 or tensor.stride(0) == rows * tensor.stride(1))


def _behind_padding(k: Tensor, v: Tensor, padding: Tensor, used: Tensor) -> Keys:
    """The batch items as packed sequences that begin behind their padding."""
    batch, rows = k.shape[:2]
    starts = torch.arange(batch, dtype=torch.int32, device=k.device) * rows + padding
    starts = torch.cat((starts, starts.new_full((1,), batch * rows)))
    lengths = Lengths(cu_seqlens_k=starts, max_seqlen_k=rows, seqused_k=used)
    return Keys(k.flatten(0, 1), v.flatten(0, 1), lengths)


def _rows_as_pages(k: Tensor, v: Tensor, table: Tensor, padding: Tensor, used: Tensor) -> Keys:
    """Each row as a page of its own. Entries beyond the rows in use may hold anything, as in the table."""
    page_size, columns = k.shape[1], table.shape[1]
    room = page_size * columns
    row = torch.arange(room, dtype=torch.int32, device=k.device) + padding[:, None]
    column = row.div(page_size, rounding_mode="floor").clamp(max=columns - 1)
    rows = table.gather(1, column.long()) * page_size + row % page_size
    lengths = Lengths(seqused_k=used, page_table=rows)
    return Keys(_single_rows(k), _single_rows(v), lengths)


def _single_rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1).unsqueeze(1)


def batch_of(name: str, tensor: Any, cu_seqlens_name: str, cu_seqlens: Any) -> int:
    """Return the number of sequences of a tensor, which may be packed.

    Args:
        name: of the tensor.
        tensor: its batch is its first dimension, or with ``cu_seqlens`` one less than their number.
        cu_seqlens_name: of these.
        cu_seqlens: first rows of packed sequences, or None.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: one of them has no dimensions.
    """
    for argument, value in ((name, tensor), (cu_seqlens_name, cu_seqlens)):
        if value is not None or argument == name:
            require_tensor(argument, value)
            if value.ndim == 0:
                raise ValueError(f"{argument} must have dimensions; its shape is ()")
    return tensor.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1  # type: ignore[no-any-return]


def advances(causal: bool, options: Sequence[Any]) -> bool:
    """Return whether the queries of a call lie at positions of their own: its mask depends on them.

    Args:
        causal: of the call.
        options: as ``resolve_options`` returns them: the window first, the chunk as the fifth.
    """
    window, chunk = options[:2], options[4] if len(options) > 4 else 0
    return bool(causal or any(side != -1 for side in window) or chunk != 0)
