"""Decides the channel of a compatibility wheel by that of the flash-attn3 release it requires.

The wheel is pure Python and needs no GPU validation. It is on ``stable`` if the required release is. It is
yanked with the required release: an installer would otherwise install the yanked release through its pin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.errors import ReportMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from index_site.manifest import Channel, Wheel

_HELD_BACK = "it is held back by its publisher"


def followed(wheels: Mapping[str, Wheel], wanted: Mapping[str, Channel | None]) -> dict[str, Wheel]:
    """Return the wheels, by file name, with each compatibility wheel on the channel of its requirement.

    Args:
        wheels: every wheel of the index, by file name.
        wanted: file name -> the channel that the publisher requires, or None; of the wheels being published.

    Raises:
        ReportMismatch: ``wanted`` is ``stable``, and the required release is not on it.
    """
    compat = (name for name, wheel in wheels.items() if wheel.is_compat)
    return {
        **wheels,
        **{
            name: _follow(wheels[name], wheels[name].required_among(wheels.values()), wanted.get(name))
            for name in compat
        },
    }


def _follow(wheel: Wheel, required: list[Wheel], wanted: Channel | None) -> Wheel:
    requirement = ", ".join(wheel.requires_dist)
    gone = f"{requirement} is yanked"
    if required and all(other.yanked is not None for other in required):
        wheel = wheel.model_copy(update={"yanked": wheel.yanked or gone})
    elif wheel.yanked == gone:
        wheel = wheel.model_copy(update={"yanked": None})
    if wheel.channel == "stable":
        return wheel
    if wheel.audit and wheel.audit.failures:
        reason = f"its audit failed: {wheel.audit.failures[0]}"
    elif wheel.faults:
        reason = f"its publisher forced it: {wheel.faults[0]}"
    elif not any(other.channel == "stable" for other in required):
        reason = f"no wheel of {requirement}, which it needs, is stable"
    elif wanted == "candidate" or (wanted is None and wheel.channel_reason == _HELD_BACK):
        reason = _HELD_BACK
    else:
        reason = ""
    if reason and wanted == "stable":
        raise ReportMismatch(f"{wheel.filename}: cannot go to stable: {reason}")
    return wheel.model_copy(update={"channel": "candidate" if reason else "stable", "channel_reason": reason})
