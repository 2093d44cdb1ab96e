"""What a report keeps of a check: all of one that failed, and little of the thousands that passed.

The name of a case says what was run, and its errors are told as fractions of what was allowed.

Only the standard library is imported here: ``validate`` needs it where there is nothing else.
"""

from __future__ import annotations

from typing import Any

_LIMIT = "_limit"


def case_record(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome of the wheel's checks as it stands in a report.

    Fields that a case has no use for are left out: ``ci.proof.report.CaseResult`` says what that means.
    """
    params = dict(outcome["params"])
    kernels = params.pop("kernels", "")
    record = {"section": outcome["section"], "name": outcome["name"]}
    if kernels:
        record["kernels"] = kernels
    if not outcome["passed"]:
        rest = {key: outcome[key] for key in ("figures", "failures", "passed")}
        return {**record, "params": params, **rest}
    ratios = _ratios(outcome["figures"])
    if "max_error" in ratios:
        record["error_ratio"] = ratios["max_error"]
    if ratios:
        record["worst_ratio"] = max(ratios.values())
    return record


def _ratios(figures: dict[str, float | None]) -> dict[str, float]:
    """Return each error that has a limit as a fraction of it, to three digits."""
    ratios = {}
    for name, error in figures.items():
        limit = figures.get(name + _LIMIT)
        if error is not None and limit:
            ratios[name] = float(f"{error / limit:.3g}")
    return ratios
