from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_attn3.checks.cases.case import DTYPES, AttentionCase
from flash_attn3.checks.cases.catalogue import quick_cases
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.cases.sampled import sampled_cases
from flash_attn3.checks.data.call import call
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.ops.fwd import CHECK
from flash_attn3.checks.trial import run_case as run_trial
from flash_attn3.checks.truth.forward import find_truth, judge_case
from tests.flash_attn3.steady_attention import steady_attention
from tests.flash_attn3.tiled_attention import TiledAttention

CPU = torch.device("cpu")
# Each is a mistake that a kernel can make, and the values on which it must be found.
MISTAKES = [
    {"causal_shift": 1},
    {"causal_shift": -1},
    {"rescale": False},
    {"skip_last_row": True},
    {"sum_rounded": True},
    {"drop_last_key": True},
    {"top_left": True},
    {"lse_log2": True},
    {"lse_masked": 0.0},
    {"wrong_head": True},
    {"round_scores": True},
]
# More keys than queries, and more queries than keys: the second has rows that see no key.
WIDE = AttentionCase("bf16", True, 2, 130, 200, 4, 2)
TALL = AttentionCase("bf16", True, 1, 200, 130, 4, 2)


def run_case(case, forward, device):
    return run_trial(CHECK, case, device, forward)


@pytest.mark.parametrize("case", quick_cases(), ids=lambda case: case.name)
def test_a_right_kernel_passes(case):
    outcome = run_case(case, TiledAttention(), CPU)
    assert outcome.failures == ()


@pytest.mark.parametrize("tile", [64, 176])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tile_does_not_matter(dtype, tile):
    outcome = run_case(replace(WIDE, dtype=dtype), TiledAttention(tile=tile), CPU)
    assert outcome.failures == ()


# Of these seeds some leave so few keys at the top that plain PyTorch's P is 1, and rounds nothing.
@pytest.mark.parametrize("seed", range(20))
def test_a_kernel_that_keeps_its_reference_passes(seed):
    case = AttentionCase("bf16", False, 5, 11, 577, 32, 4, 192, values="outrunning_keys", softmax_scale=0.02)
    outcome = run_case(replace(case, head_dim_v=128, seed=seed), steady_attention, CPU)
    assert outcome.failures == ()


@pytest.mark.parametrize("values", ["normal", "uniform", "peaked", "rising_keys", "huge_logits"])
def test_a_kernel_that_keeps_its_reference_passes_on_other_values(values):
    outcome = run_case(replace(WIDE, causal=False, values=values), steady_attention, CPU)
    assert outcome.failures == ()


@pytest.mark.parametrize("values", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: next(iter(mistake)))
def test_a_wrong_kernel_fails(mistake, dtype, values):
    wrong = TiledAttention(**mistake)
    outcomes = [run_case(replace(case, dtype=dtype, values=values), wrong, CPU) for case in (WIDE, TALL)]
    assert not all(outcome.passed for outcome in outcomes)


def _general(form="dense", page_size=0, **options):
    return AttentionCase(
        "bf16",
        options.pop("causal", False),
        3,
        130,
        200,
        4,
        2,
        form=form,
        page_size=page_size,
        seed=4,
        **options,
    )


# A mistake, and a case that must find it.
GENERAL_MISTAKES = [
    ({"first_maximum": True}, replace(_general(values="rising_keys"), batch=1, seqlen_k=1400)),
    ({"first_maximum": True}, replace(_general(values="outrunning_keys"), seqlen_k=700)),
    ({"first_maximum": True}, replace(_general(values="outrunning_rows"), seqlen_k=700)),
    ({"left_shift": 1}, _general(window=(20, 10))),
    ({"left_shift": -1}, _general(window=(20, 10))),
    ({"right_shift": 1}, _general(window=(20, 10))),
    ({"right_shift": -1}, _general(window=(-1, 50))),
    ({"chunk_shift": 1}, _general(attention_chunk=50)),
    ({"top_left": True}, _general(attention_chunk=50)),
    ({"top_left": True}, _general(window=(20, 10))),
    ({"no_softcap": True}, _general(softcap=2.0)),
    ({"cap_before_scale": True}, _general(softcap=2.0)),
    ({"no_sink": True}, _general(sink=True)),
    ({"lse_without_sink": True}, _general(sink=True)),
    ({"lse_masked": 0.0}, _general(form="packed", causal=True)),
    ({"drop_last_key": True}, _general(form="packed")),
    ({"pages_in_order": True}, _general(form="paged", page_size=16)),
    ({"pages_in_order": True}, _general(form="paged_shared", page_size=7)),
    ({"reads_longest": True}, _general(form="packed")),
    ({"reads_longest": True}, _general(form="padded")),
    ({"reads_longest": True}, _general(form="padded_k")),
    ({"reads_longest": True}, _general(form="packed_q")),
    ({"masks_by_longest": True}, _general(form="packed", causal=True)),
    ({"masks_by_longest": True}, _general(form="paged_k", page_size=64, window=(30, 30))),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mistake", "case"), GENERAL_MISTAKES, ids=lambda part: getattr(part, "name", str(part))
)
def test_a_wrong_general_kernel_fails(mistake, case, dtype):
    case = replace(case, dtype=dtype)
    assert run_case(case, TiledAttention(), CPU).passed
    assert not run_case(case, TiledAttention(**mistake), CPU).passed


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_row_of_a_sequence_fails(form):
    """The last row that counts of the last sequence that has one."""
    case = _general(form=form, page_size=16 if form in PAGED else 0)
    inputs = make_inputs(case, CPU)
    used = inputs.sequences.used_q.nonzero()[-1]

    def forward(*arguments, **options):
        out, lse = TiledAttention()(*arguments, **options)
        if inputs.sequences.rows_q is None:
            out[used[0], used[1]] *= 1.3
        else:
            out[inputs.sequences.rows_q[used[0], used[1]]] *= 1.3
        return out, lse

    assert not run_case(case, forward, CPU).passed


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_use_may_hold_anything(form):
    """The memory of k and v is NaN where no sequence reaches, and so are results that nobody asked for."""
    case = _general(form=form, page_size=48 if form in PAGED else 0)
    inputs = make_inputs(case, CPU)
    out, lse = call(TiledAttention(), case, inputs)
    assert judge_case(case, inputs, find_truth(case, inputs), (out, lse)).failures == []
    if FORMS[form].used_q:
        assert bool(out.isnan().any())
    if FORMS[form].used_k:
        assert bool(inputs.k.isnan().any())
        assert bool(inputs.v.isnan().any())


@pytest.mark.parametrize("case", sampled_cases(400, 11)[::20], ids=lambda case: case.name)
def test_a_right_kernel_passes_on_samples(case):
    if case.batch * case.heads * case.seqlen_q * case.seqlen_k > 1 << 21:
        case = replace(case, batch=1, seqlen_q=min(case.seqlen_q, 256), seqlen_k=min(case.seqlen_k, 512))
    assert run_case(case, TiledAttention(), CPU).failures == ()


def test_one_wrong_element_fails():
    def forward(*arguments):
        out, lse = TiledAttention()(*arguments)
        out[1, 17, 3, 90] += 0.05
        return out, lse

    outcome = run_case(WIDE, forward, CPU)
    assert [failure.split()[0] for failure in outcome.failures] == ["max_error"]


def test_one_nan_fails():
    def forward(*arguments):
        out, lse = TiledAttention()(*arguments)
        out[0, 0, 0, 0] = torch.nan
        return out, lse

    (failure,) = run_case(WIDE, forward, CPU).failures
    assert failure.startswith("out has 1 nan values where the reference has 0")


def test_a_read_of_a_row_outside_fails():
    """The tensors are views into memory full of NaN."""

    def forward(q, k, v, scale, causal):
        stride = k.stride()
        longer = k.as_strided((k.shape[0], k.shape[1] + 1, *k.shape[2:]), stride, k.storage_offset())
        longer_v = v.as_strided(longer.shape, stride, v.storage_offset())
        out, lse = TiledAttention(causal_shift=-1)(q, longer, longer_v, scale, causal)
        return out, lse

    outcome = run_case(replace(WIDE, layout="padded"), forward, CPU)
    assert any("nan" in failure for failure in outcome.failures)


def test_an_exception_is_a_failure():
    def forward(*_arguments):
        raise RuntimeError("no kernel image")

    outcome = run_case(WIDE, forward, CPU)
    assert outcome.failures == ("raised RuntimeError: no kernel image",)
    assert not outcome.as_dict()["passed"]


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda out, lse: (out.float(), lse), "out is torch.float32; it should be torch.bfloat16"),
        (lambda out, lse: (out, lse.double()), "lse is torch.float64; it should be torch.float32"),
        (
            lambda out, lse: (out.transpose(1, 2).contiguous().transpose(1, 2), lse),
            "out or lse is not contiguous",
        ),
        (lambda out, lse: (out[:, 1:], lse), "shapes are out"),
    ],
)
def test_a_wrong_kind_of_result_fails(change, failure):
    outcome = run_case(WIDE, lambda *arguments: change(*TiledAttention()(*arguments)), CPU)
    assert any(text.startswith(failure) for text in outcome.failures)


@settings(deadline=None, max_examples=25)
@given(
    dtype=st.sampled_from(DTYPES),
    causal=st.booleans(),
    seqlens=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    groups=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 1 << 20),
    scale=st.sampled_from([None, 0.0, -0.3, 0.7]),
)
def test_a_right_kernel_passes_everywhere(*, dtype, causal, seqlens, groups, seed, scale):
    heads_kv, group = groups
    case = AttentionCase(
        dtype,
        causal,
        2,
        *seqlens,
        heads_kv * group,
        heads_kv,
        layout="padded",
        softmax_scale=scale,
        seed=seed,
    )
    assert run_case(case, TiledAttention(), CPU).failures == ()
