"""The operators of a release: what each takes, and what users look for and do not find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index_site.gpus import operator_title

if TYPE_CHECKING:
    from index_site.manifest import OperatorBuild, Wheel

_SOUGHT = {"bwd": "the backward pass, so no training", "decode": "decoding with a KV cache"}
"""Operators that users look for: operator -> words."""


def _builds(release: tuple[Wheel, ...]) -> dict[str, OperatorBuild]:
    """Return the kernels of each operator. The wheels of a release hold the same ones."""
    return {op: build for wheel in release if wheel.build for op, build in wheel.build.operators.items()}


def operator_inputs(release: tuple[Wheel, ...]) -> list[tuple[str, str]]:
    """Return what each operator takes: (title, words)."""
    return [(operator_title(op), _takes(build)) for op, build in _builds(release).items()]


def missing_operators(release: tuple[Wheel, ...]) -> list[str]:
    """Return what users of FlashAttention-3 may look for and the wheels of a release cannot do."""
    builds = _builds(release)
    dtypes = {dtype for build in builds.values() for dtype in build.dtypes}
    lacking = [words for op, words in _SOUGHT.items() if op not in builds]
    return lacking + ([] if any("e4m3" in dtype for dtype in dtypes) else ["FP8"])


def _takes(build: OperatorBuild) -> str:
    parts = [", ".join(build.dtypes)]
    if build.head_dims:
        parts.append(f"any head dimension up to {max(build.head_dims)}")
        parts.append(f"masks {', '.join(build.masks)}")
    return "; ".join(parts)
