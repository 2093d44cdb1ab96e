"""``fa3_append_args`` of a case of appending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flash_attn3._native import Dtype
from flash_attn3._native import append as native_append
from flash_attn3.checks.data.forward_abi import new_rows, set_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from flash_attn3.checks.cases.append import AppendCase
    from flash_attn3.checks.data.append import AppendInputs


def append_kernel(case: AppendCase, inputs: AppendInputs) -> Callable[[], str]:
    """Return a function that returns the name of the kernel which a call of this case would launch.

    See ``data.forward_abi.forward_kernel``. Of a call that attends, the kernel that appends.
    """
    caches = [cache.view(cache.buffer) for cache in (inputs.k_cache, inputs.v_cache)]
    seqlens = torch.empty(max(1, case.batch), dtype=torch.int32, device=caches[0].device)
    # Queries are rotated in the same launch, and left alone by one that does not rotate.
    q = inputs.q if case.rotary_dim else None
    q_out = None if q is None else new_rows(q, tuple(q.shape))
    options = inputs.options

    def kernel() -> str:
        arguments = native_append.AppendArgs()
        arguments.device = caches[0].device.index or 0
        dtype = Dtype[case.dtype.upper()]
        tensors = {
            "k_cache": caches[0],
            "v_cache": caches[1],
            "k": inputs.k,
            "v": inputs.v,
            "q": q,
            "q_out": q_out,
        }
        for name, tensor in tensors.items():
            if tensor is not None:
                set_tensor(getattr(arguments, name), tensor, dtype)
        arguments.seqlens = seqlens.data_ptr()
        arguments.batch = case.batch
        for name in ("cache_seqlens", "cache_batch_idx", "page_table", "cu_seqlens_q"):
            if name in options:
                setattr(arguments, name, options[name].data_ptr())
        if case.packed:
            arguments.cu_seqlens_new = options["cu_seqlens_k_new"].data_ptr()
        if case.page_size:
            arguments.page_table_stride = arguments.page_table_columns = case.columns
        if inputs.tables:
            rotary = arguments.rotary
            rotary.cosines, rotary.sines = (table.data_ptr() for table in inputs.tables)
            rotary.stride_cosines = rotary.stride_sines = case.rotary_dim // 2
            rotary.positions, rotary.columns = inputs.tables[0].shape[0], case.rotary_dim
            rotary.interleaved, rotary.q_advances = case.interleaved, case.advances
        return native_append.append_kernel(arguments).name

    return kernel
