"""The attention cases that are run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flash_attn3.checks.cases.case import DTYPES
from flash_attn3.checks.cases.dense import (
    EDGE_SEQLENS,
    QUICK_SEQLENS,
    both_masks,
    edges,
    groups,
    layouts,
    long,
    values,
)
from flash_attn3.checks.cases.options import (
    caps_and_sinks,
    enormous,
    growing,
    head_dims,
    masks,
    quick_options,
    wide_values,
)
from flash_attn3.checks.cases.per_kernel import per_kernel
from flash_attn3.checks.cases.ragged import growing_ragged, quick_ragged, ragged
from flash_attn3.checks.cases.sampled import sampled_cases

if TYPE_CHECKING:
    from flash_attn3.checks.cases.case import AttentionCase


def full_cases(samples: int, seed: int) -> tuple[AttentionCase, ...]:
    """Return every fixed case once, and ``samples`` random ones drawn from ``seed``."""
    named = (
        *edges(EDGE_SEQLENS, DTYPES),
        *layouts(DTYPES),
        *values(DTYPES),
        *groups(DTYPES),
        *long(DTYPES),
        *head_dims(DTYPES),
        *masks(DTYPES),
        *caps_and_sinks(DTYPES),
        *wide_values(DTYPES),
        *ragged(DTYPES),
        *growing(DTYPES),
        *enormous(DTYPES),
        *growing_ragged(DTYPES),
        *per_kernel(DTYPES),
    )
    return (*{case.name: case for case in named}.values(), *sampled_cases(samples, seed))


def quick_cases() -> tuple[AttentionCase, ...]:
    """Return a small selection with every layout, value, kernel, form, class of mask and head grouping."""
    return (
        *edges(QUICK_SEQLENS, DTYPES),
        *(case for case in layouts(DTYPES) if case.causal == (case.dtype == "bf16")),
        *(case for case in values(DTYPES) if case.causal == (case.dtype == "fp16")),
        *quick_options(),
        *quick_ragged(),
        both_masks("bf16", (1, 2048, 2048, 4, 2))[1],
        both_masks("fp16", (1, 1000, 3000, 4, 4))[0],
    )
