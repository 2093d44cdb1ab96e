"""Errors for arguments of FlashAttention-3 without a kernel in flash_attn3, and for those of a wrong type."""

from __future__ import annotations

from torch import Tensor


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


def require_tensors(**optional: object) -> None:
    """Refuse arguments that are neither tensors nor None.

    Raises:
        TypeError: names the first such argument.
    """
    for name, value in optional.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor or None; its type is {type(value).__name__}")
