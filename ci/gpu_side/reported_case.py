"""Selects what a report keeps of a check: everything if it failed, two ratios if it passed.

Thousands of checks pass; the name of one states its parameters.
"""

from __future__ import annotations

from typing import Any

_LIMIT = "_limit"


def reported_case(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome of the wheel's checks as a report holds it.

    Fields without a value are left out; ``ci.proof.report.CaseResult`` has their defaults.
    """
    params = dict(outcome["params"])
    kernels = params.pop("kernels", "")
    case = {"section": outcome["section"], "name": outcome["name"]}
    if kernels:
        case["kernels"] = kernels
    if not outcome["passed"]:
        rest = {key: outcome[key] for key in ("figures", "failures", "passed")}
        return {**case, "params": params, **rest}
    ratios = _ratios(outcome["figures"])
    if "max_error" in ratios:
        case["error_ratio"] = ratios["max_error"]
    if ratios:
        case["worst_ratio"] = max(ratios.values())
    return case


def _ratios(figures: dict[str, float | None]) -> dict[str, float]:
    """Return each error that has a limit as a fraction of the limit, to three digits."""
    ratios = {}
    for name, error in figures.items():
        limit = figures.get(name + _LIMIT)
        if error is not None and limit:
            ratios[name] = float(f"{error / limit:.3g}")
    return ratios
