"""Walks the arguments of a public function: does a value other than the default reach an operator or raise?

An argument that a function accepts and forgets is the error that this finds. Every parameter of the signature
needs an entry; a parameter without one fails.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable


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


@dataclass(frozen=True)
class Reaches:
    """The value reaches the operator.

    Attributes:
        value: another than the default.
        arguments: what the operator gets of it, by name; or a function of all that it gets, which returns
            whether the value is among it.
        given: other arguments that such a call needs.
    """

    value: Any
    arguments: dict[str, Any] | Callable[[dict[str, Any]], bool]
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Returns:
    """The value changes what the function returns: a tuple of this length."""

    value: Any
    length: int


@dataclass(frozen=True)
class Raises:
    """The value is refused."""

    value: Any
    error: type[Exception]


@dataclass(frozen=True)
class Hint:
    """The value changes no result, for a reason; ``wrong`` is a value that is refused all the same."""

    value: Any
    reason: str
    wrong: Any = None


Entry = Reaches | Returns | Raises | Hint


def missing_entries(function: Any, entries: dict[str, Entry]) -> set[str]:
    """Return the parameters without an entry, and the entries without a parameter."""
    return set(inspect.signature(function).parameters) ^ set(entries)


def ignored(function: Any, required: dict[str, Any], name: str, entry: Entry, beside: dict[str, Any]) -> str:
    """Call with a value for one parameter, and return what was ignored; an empty string if nothing was.

    Args:
        function: a public function.
        required: arguments of a call that is right.
        name: the parameter.
        entry: what should become of its value.
        beside: other arguments, which lead the call another way through the package.
    """
    arguments = {**required, **beside}
    if isinstance(entry, Hint):
        return _as_hint(function, arguments, name, entry)
    if isinstance(entry, Raises):
        try:
            function(**{**arguments, name: entry.value})
        except entry.error as error:
            return "" if name in str(error) else f"the error does not name {name}: {error}"
        return f"{name} was accepted"
    if isinstance(entry, Returns):
        result = function(**{**arguments, name: entry.value})
        return (
            ""
            if isinstance(result, tuple) and len(result) == entry.length
            else f"{name} left the result a {type(result).__name__}"
        )
    with Calls() as calls:
        function(**{**arguments, **entry.given, name: entry.value})
    _, seen = calls.only
    if isinstance(entry.arguments, dict):
        arrived = all(_same(seen.get(key), value) for key, value in entry.arguments.items())
    else:
        arrived = entry.arguments(seen)
    return "" if arrived else f"{name} did not arrive: {seen}"


def _as_hint(function: Any, arguments: dict[str, Any], name: str, entry: Hint) -> str:
    if not entry.reason:
        return f"{name} has no reason to be ignored"
    function(**{**arguments, name: entry.value})
    if entry.wrong is None:
        return ""
    try:
        function(**{**arguments, name: entry.wrong})
    except (TypeError, ValueError) as error:
        return "" if name in str(error) else f"the error does not name {name}: {error}"
    return f"{name}={entry.wrong!r} was accepted"


def _same(seen: Any, value: Any) -> bool:
    if isinstance(seen, torch.Tensor) or isinstance(value, torch.Tensor):
        return seen is value
    return bool(seen == value) and type(seen) is type(value)
