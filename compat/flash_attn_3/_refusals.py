"""Errors for arguments of FlashAttention-3 for which flash_attn3 has no kernel."""

from __future__ import annotations

import torch
from torch import Tensor

_FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})


def refuse_given(**absent: object) -> None:
    """Refuse arguments that are not None.

    Raises:
        NotImplementedError: names the first argument that was given.
    """
    for name, value in absent.items():
        if value is not None:
            raise NotImplementedError(
                f"{name} has no kernel in flash_attn3 yet: it must be None; it is a {type(value).__name__}"
            )


def refuse_fp8(**tensors: object) -> None:
    """Refuse tensors of 8-bit floating point.

    Raises:
        NotImplementedError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.dtype in _FP8:
            raise NotImplementedError(
                f"{name} has no FP8 kernel in flash_attn3 yet: it must be torch.float16 or torch.bfloat16; "
                f"it is {tensor.dtype}"
            )
