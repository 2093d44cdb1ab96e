"""Walks the arguments of a public function: does a value other than the default reach an operator or raise?

An argument that a function accepts and forgets is the error that this finds. Every parameter of the signature
needs an entry; a parameter without one fails.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.flash_attn3.operator_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True)
class Reaches:
    """The value reaches the operator.

    Attributes:
        value: another than the default.
        arguments: what the operator gets of it, by name; or a function of all that it gets, which returns
            whether the value is among it.
        given: other arguments that such a call needs.
        operator: of a call of several operators, the one that the value reaches.
    """

    value: Any
    arguments: dict[str, Any] | Callable[[dict[str, Any]], bool]
    given: dict[str, Any] = field(default_factory=dict)
    operator: str = ""


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
_SINK = torch.empty(4, device="meta")
# Another option or a gradient leads a call another way through the package; so does an output.
_BESIDE: dict[str, dict[str, Any]] = {
    "alone": {},
    "softcap": {"softcap": 7.0},
    "window": {"window_size": (9, 9)},
    "sink": {"learnable_sink": _SINK},
    "gradient": {"learnable_sink": _SINK.clone().requires_grad_()},
}
_OUTPUTS = ("out", "out_")


def ways(functions: Mapping[Any, tuple[dict[str, Any], dict[str, Entry]]]) -> Iterator[Any]:
    """Every call that must not ignore a parameter: (function, parameter, arguments beside it).

    ``functions`` holds the required arguments and the entries of each.
    """
    for function, (_, entries) in functions.items():
        output = {name: entries[name].value for name in _OUTPUTS if name in entries}
        for name in entries:
            for way, beside in {**_BESIDE, "out": output}.items():
                if beside.keys() - entries.keys() or name in beside:
                    continue  # the function has no such option, or it is the one that is walked
                if (name == "s_aux" and "learnable_sink" in beside) or (
                    name in _OUTPUTS and way == "gradient"
                ):
                    continue  # these exclude each other
                yield pytest.param(function, name, beside, id=f"{function.__name__}-{name}-{way}")


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
    if entry.operator:
        (seen,) = (found for operator, found in calls.seen if operator == entry.operator)
    else:
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
