"""``fa3_fwd_args`` of an attention case: what the torch operators would pass to the C ABI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flash_attn3 import _native

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from flash_attn3.checks.cases.case import AttentionCase
    from flash_attn3.checks.data.inputs import AttentionInputs

ROW_ELEMENTS = 8  # 16 bytes: what the tensor copy engine needs strides to be a multiple of
_ALIGNMENT = 16  # bytes
_ARRAYS = ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table")


def forward_arguments(
    case: AttentionCase, inputs: AttentionInputs, out: Tensor, lse: Tensor, *, stream: int = 0
) -> _native.FwdArgs:
    """Return the arguments of ``fa3_fwd``; they hold addresses, so the tensors must outlive them.

    Args:
        case: gives the mask and the scale.
        inputs: q, k and v in layouts that the kernels can read, and the index arrays.
        out: as q, with the head_dim of v.
        lse: float32; contiguous.
        stream: a CUstream as a number; 0 for the default stream.
    """
    arguments = _native.FwdArgs()
    arguments.device = inputs.q.device.index or 0
    arguments.stream = stream
    dtype = _native.Dtype[case.dtype.upper()]
    for name, tensor in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v), ("out", out)):
        set_tensor(getattr(arguments, name), tensor, dtype)
    arguments.lse = lse.data_ptr()
    arguments.sink = None if inputs.sink is None else inputs.sink.data_ptr()
    set_sequences(arguments.sequences, case, inputs)
    arguments.mask.causal = case.causal
    arguments.mask.window_left, arguments.mask.window_right = case.window
    arguments.mask.attention_chunk = case.attention_chunk
    arguments.scale.softmax_scale = case.scale
    arguments.scale.softcap = case.softcap
    return arguments


def take_workspace(arguments: _native.FwdArgs, out: Tensor) -> Tensor:
    """Give the arguments the workspace that the torch operators would allocate, and return it."""
    workspace = out.new_empty(_native.forward_workspace(arguments), dtype=torch.uint8)
    if workspace.numel():
        arguments.workspace, arguments.workspace_size = workspace.data_ptr(), workspace.numel()
    return workspace


def set_tensor(view: ctypes.Structure, tensor: Tensor, dtype: _native.Dtype) -> None:
    """Describe a tensor; one of three dimensions, (total, heads, head_dim), as a batch of one."""
    packed = tensor.dim() == 3
    view.data = tensor.data_ptr()
    view.shape[:] = (1, *tensor.shape) if packed else tuple(tensor.shape)
    view.stride[:] = (0, *tensor.stride()) if packed else tensor.stride()
    view.dtype = dtype


def set_sequences(sequences: ctypes.Structure, case: AttentionCase, inputs: AttentionInputs) -> None:
    """Describe the sequences of a case."""
    options = inputs.options
    for name in _ARRAYS:
        array = options.get(name)
        if isinstance(array, Tensor):
            setattr(sequences, name, array.data_ptr())
    sequences.batch = case.batch
    sequences.max_seqlen_q = case.seqlen_q
    sequences.max_seqlen_k = case.seqlen_k
    table = options.get("page_table")
    if isinstance(table, Tensor):
        sequences.page_table_stride = table.stride(0) if case.batch > 1 else 0
        sequences.max_seqlen_k = table.shape[1] * case.page_size


def forward_kernel(case: AttentionCase, inputs: AttentionInputs) -> Callable[[], str]:
    """Return a function that returns the name of the kernel which a call of this case would launch.

    It obeys ``_native.allow_kernels`` and raises as the one of ``find_kernel``.
    """
    find = find_kernel(case, inputs)
    return lambda: find().name


def decode_kernel(case: AttentionCase, inputs: AttentionInputs) -> Callable[[], str]:
    """Return the same for kernels of the operator ``decode``; no other kernel serves the call then."""
    find = find_kernel(case, inputs)

    def kernel() -> str:
        found = find()
        if found.op == "decode":
            return found.name
        raise _native.NativeError(_native.Status.UNSUPPORTED, f"{found.name} serves the call")

    return kernel


def find_kernel(case: AttentionCase, inputs: AttentionInputs) -> Callable[[], _native.Kernel]:
    """Return a function that returns the kernel which a call of this case would launch.

    The function obeys ``_native.allow_kernels`` at the time of its call, and raises NativeError where no
    allowed kernel serves the case. The C ABI takes only layouts that kernels can read; a tensor in another
    layout, which the torch operators would copy, is replaced by memory of its shape, which nothing reads.
    """
    q, k, v = (readable(tensor) for tensor in (inputs.q, inputs.k, inputs.v))
    out = new_rows(q, (*q.shape[:-1], v.shape[-1]))
    lse = q.new_empty(max(1, out.shape[:-1].numel()), dtype=torch.float32)
    usable = replace(inputs, q=q, k=k, v=v)
    workspace = lse.data_ptr()  # that there is one, as with the torch operators, is all that is asked

    def kernel() -> _native.Kernel:
        arguments = forward_arguments(case, usable, out, lse)  # of tensors that this function keeps alive
        arguments.workspace = workspace
        return _native.forward_kernel(arguments)

    return kernel


def readable(tensor: Tensor) -> Tensor:
    """Return the tensor, or other memory of its shape where the torch operators would copy it."""
    steps = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    aligned = all(size == 1 or stride % ROW_ELEMENTS == 0 for size, stride in steps)
    if aligned and tensor.data_ptr() % _ALIGNMENT == 0 and 1 in {tensor.stride(-1), tensor.shape[-1]}:
        return tensor
    return new_rows(tensor, tuple(tensor.shape))


def new_rows(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return memory of a shape whose rows start at multiples of 16 bytes."""
    columns = -(-shape[-1] // ROW_ELEMENTS) * ROW_ELEMENTS
    return like.new_empty((*shape[:-1], columns))[..., : shape[-1]]
