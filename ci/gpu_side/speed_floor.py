"""Floors on speed: a validation fails when a race is slower than a multiple of another implementation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

PROVIDERS = {"cudnn": "cuDNN", "flash": "torch's flash", "fa3": "FA3"}
"""The other implementations of a race, by the suffix of ``ratio_to_``, with their names for messages."""


def cudnn_floor(floor: float, races: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcome that fails if a plain race is below ``floor`` times the speed of cuDNN."""
    return _floor("min_ratio", "cudnn", floor, filter(_is_plain, races))


def portable_floor(floor: float, races: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcome that fails if portable kernels are below ``floor`` times torch's flash backend."""
    portable = (race for race in races if _is_judged(race) and race.get("kernels") == "portable")
    return _floor("min_portable_ratio", "flash", floor, portable)


def _floor(name: str, other: str, floor: float, races: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Compare the slowest run of each race with a floor; the result has the form of an outcome."""
    shown = PROVIDERS[other]
    ratios: dict[str, float | None] = {}
    for race in races:
        ratio, before = race[f"ratio_to_{other}"], ratios.get(race["name"], math.inf)
        ratios[race["name"]] = None if ratio is None or before is None else min(ratio, before)
    failures = [
        f"{race} is {f'not raced against {shown}' if ratio is None else f'{ratio:.3f} x {shown}'}; "
        f"the floor is {floor:g}"
        for race, ratio in ratios.items()
        if ratio is None or ratio < floor
    ]
    if not ratios:
        failures = [f"nothing was raced; the floor is {floor:g} x {shown}"]
    return {
        "section": "race",
        "name": name,
        "category": "floor",
        "params": {name: floor},
        "figures": ratios,
        "failures": failures,
        "passed": not failures,
    }


def _is_plain(race: dict[str, Any]) -> bool:
    """Return whether a race is judged, cuDNN has a fast path for it, and ours chose the kernel."""
    setting = race["setting"]
    special = (race.get("kernels"), *(setting.get(key) for key in ("head_dim_v", "window", "varlen")))
    return _is_judged(race) and setting.get("group", 1) == 1 and not any(special)


def _is_judged(race: dict[str, Any]) -> bool:
    """Return whether a floor holds for a race; the ratios of others are recorded, with no bar yet."""
    return bool(race.get("judged", True))
