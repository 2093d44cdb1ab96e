"""What reaches flash_attn3's operators."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """Keeps the calls of flash_attn3's operators: (name, arguments by name)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "flash_attn3":
            # torch passes no argument on that has its default and none other behind it
            named = {argument.name: argument.default_value for argument in func._schema.arguments}
            named |= dict(zip(named, args, strict=False)) | (kwargs or {})
            self.seen.append((func._opname, named))
        return func(*args, **(kwargs or {}))

    @property
    def only(self) -> tuple[str, dict[str, Any]]:
        """The one call that there was."""
        (call,) = self.seen
        return call
