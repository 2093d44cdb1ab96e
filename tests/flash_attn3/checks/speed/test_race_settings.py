from __future__ import annotations

import itertools
import math

import pytest

from flash_attn3.checks.cases.options import NATIVE
from flash_attn3.checks.speed.bars import BEST_BACKWARD_OVER_CUDNN, BEST_OVER_CUDNN, best_over_cudnn
from flash_attn3.checks.speed.race import race_name
from flash_attn3.checks.speed.race_settings import (
    TOKENS,
    VARLEN_TOKENS,
    AttentionSetting,
    backward_settings,
    portable_backward_settings,
    portable_settings,
    settings,
)

ALL = settings(False, NATIVE)
BACKWARD = backward_settings(False, NATIVE)


def test_every_cell_of_the_bars_is_raced():
    cells = {
        (s.head_dim, s.causal, s.seqlen)
        for s in ALL
        if s.plain and best_over_cudnn(s.head_dim, s.causal, s.seqlen)
    }
    assert len(cells) == sum(len(row) for row in BEST_OVER_CUDNN.values()) == 30


def test_every_cell_of_the_bars_of_backward_is_raced():
    judged = [setting for setting in BACKWARD if setting.best_over_cudnn]
    cells = {(s.head_dim, s.causal, s.seqlen) for s in judged}
    assert len(cells) == len(judged) == sum(len(row) for row in BEST_BACKWARD_OVER_CUDNN.values()) == 24
    assert {s.deterministic for s in judged} == {False}
    in_order = {(s.head_dim, s.causal, s.seqlen) for s in BACKWARD if s.deterministic}
    assert in_order == set(itertools.product((64, 128, 256), (False, True), (1024, 4096)))


def test_names_tell_the_races_apart():
    assert len({setting.name for setting in (*ALL, *BACKWARD)}) == len(ALL) + len(BACKWARD)
    assert {s.head_dim_v for s in ALL} == {None, 128}
    assert {s.group for s in ALL} == {1, 8}
    assert {s.window for s in ALL} == {None, 1024}
    assert {s.varlen for s in ALL} == {False, True}
    assert {s.head_dim for s in settings(True, NATIVE)} == {head_dim for head_dim, _ in NATIVE}


def test_the_portable_kernels_are_raced_at_64_and_128_up_to_16k():
    cells = {(s.head_dim, s.causal, s.seqlen) for s in portable_settings() if s.plain}
    assert cells == set(itertools.product((64, 128), (False, True), (1024, 4096, 16384)))
    names = {race_name(setting, "portable") for setting in portable_settings()}
    assert len(names) == 12
    assert names.isdisjoint(setting.name for setting in ALL)
    gradients = portable_backward_settings()
    assert {(s.head_dim, s.causal, s.seqlen) for s in gradients} == cells
    assert {s.name for s in gradients} <= {s.name for s in BACKWARD}


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_a_setting_fits_together(setting):
    lengths = setting.lengths
    assert sum(lengths) == (VARLEN_TOKENS if setting.varlen else TOKENS)
    assert max(lengths) == setting.seqlen
    assert min(lengths) >= 128
    assert setting.heads % setting.group == 0
    assert setting.heads > 0


def _pairs(setting):
    """Count what the mask shows, key by key."""
    window = math.inf if setting.window is None else setting.window
    return sum(
        sum(1 for j in range(n) if (not setting.causal or j <= i) and j >= i - window)
        for n in setting.lengths[:1]
        for i in range(n)
    )


@pytest.mark.parametrize("options", [{}, {"window": 64}, {"window": 600}], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_flops_are_those_of_visible_keys(causal, options):
    if options and not causal:
        pytest.skip("windows are raced under the causal mask")
    setting = AttentionSetting("bf16", 128, causal, 512, **options)
    counted = 4 * 128 * setting.heads * setting.batch * _pairs(setting)
    assert setting.flops == pytest.approx(counted, rel=0.02)


def test_flops_count_both_head_dims():
    both = AttentionSetting("bf16", 192, False, 1024, head_dim_v=128)
    assert both.flops / AttentionSetting("bf16", 192, False, 1024).flops == pytest.approx((192 + 128) / 384)
