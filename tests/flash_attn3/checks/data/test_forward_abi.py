"""The arguments of the C ABI for a case, and the kernel that the library names for them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flash_attn3._native import Dtype
from flash_attn3.checks.cases.case import AttentionCase
from flash_attn3.checks.cases.forms import FORMS, PAGED
from flash_attn3.checks.data import forward_abi
from flash_attn3.checks.data.forward_abi import forward_arguments
from flash_attn3.checks.data.inputs import make_inputs
from flash_attn3.checks.data.layouts import LAYOUTS, PACKED_LAYOUTS
from matrix.model import read_matrix

CPU = torch.device("cpu")


def _arguments(case):
    inputs = make_inputs(case, CPU)
    out = torch.empty((*inputs.q.shape[:-1], inputs.v.shape[-1]), dtype=inputs.q.dtype)
    lse = torch.empty(out.shape[:-1])
    return inputs, out, lse, forward_arguments(case, inputs, out, lse, stream=7)


def test_a_dense_call():
    case = AttentionCase(
        "bf16",
        True,
        2,
        5,
        9,
        4,
        2,
        head_dim=64,
        head_dim_v=32,
        window=(3, -1),
        attention_chunk=6,
        softcap=20.0,
        softmax_scale=0.25,
    )
    inputs, out, lse, arguments = _arguments(case)
    assert (arguments.device, arguments.stream, arguments.sm_margin) == (0, 7, 0)
    for name, tensor in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v), ("out", out)):
        view = getattr(arguments, name)
        assert (view.data, tuple(view.shape), tuple(view.stride)) == (
            tensor.data_ptr(),
            tuple(tensor.shape),
            tensor.stride(),
        )
        assert view.dtype == Dtype.BF16
    assert (arguments.lse, arguments.sink) == (lse.data_ptr(), None)
    mask = arguments.mask
    assert (mask.causal, mask.window_left, mask.window_right, mask.attention_chunk) == (1, 3, -1, 6)
    assert (arguments.scale.softmax_scale, arguments.scale.softcap) == (0.25, 20.0)
    sequences = arguments.sequences
    arrays = ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table")
    assert [getattr(sequences, name) for name in arrays] == [None] * 5
    assert sequences.batch == 2


@pytest.mark.parametrize("form", FORMS)
def test_a_call_of_sequences_of_different_lengths(form):
    size = 16 if form in PAGED else 0
    case = AttentionCase(
        "fp16", False, 3, 30, 40, 4, 2, head_dim=64, form=form, page_size=size, seed=3, sink=True
    )
    inputs, _, _, arguments = _arguments(case)
    sequences = arguments.sequences
    for name in ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table"):
        given = inputs.options.get(name)
        assert getattr(sequences, name) == (None if given is None else given.data_ptr()), name
    packed = FORMS[form].packed_q
    assert tuple(arguments.q.shape) == ((1, *inputs.q.shape) if packed else tuple(inputs.q.shape))
    assert tuple(arguments.out.shape) == tuple(arguments.q.shape)
    assert arguments.sink == inputs.sink.data_ptr()
    assert arguments.q.dtype == Dtype.FP16
    assert math.isclose(arguments.scale.softmax_scale, 0.125)
    assert (sequences.batch, sequences.max_seqlen_q) == (3, 30)
    if size:
        assert sequences.max_seqlen_k == 48  # three pages
        assert sequences.page_table_stride == 3
    else:
        assert sequences.max_seqlen_k == 40


@pytest.mark.parametrize("layout", sorted({*LAYOUTS, *PACKED_LAYOUTS} - {"far_batches"}))
@pytest.mark.parametrize("head_dim", [64, 59, 1])
def test_the_library_gets_layouts_that_kernels_read(monkeypatch, layout, head_dim):
    """A tensor that they can read as it is; of the others, memory of the same shape."""
    case = AttentionCase("bf16", False, 2, 5, 5, 4, 4, head_dim=head_dim, layout=layout)
    inputs, asked = make_inputs(case, CPU), []

    def answer(arguments):
        asked.append(arguments)
        return SimpleNamespace(name="a kernel")

    monkeypatch.setattr(forward_abi._native, "forward_kernel", answer)
    assert forward_abi.forward_kernel(case, inputs)() == "a kernel"
    (arguments,) = asked
    for name, tensor in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v)):
        view = getattr(arguments, name)
        assert tuple(view.shape) == tuple(tensor.shape)
        assert view.data % 16 == 0
        assert all(stride % 8 == 0 for stride in view.stride[:3])
        assert view.stride[3] == 1 or head_dim == 1
        readable = tensor.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in tensor.stride()[:3])
        readable = readable and (tensor.stride(3) == 1 or head_dim == 1)
        assert (view.data == tensor.data_ptr()) == readable


LIBRARY_PROGRAM = Path(__file__).with_name("library_program.py")


@pytest.fixture(scope="module")
def answers(site, fake_driver_folder):
    """What the real library answers for cases, on a device of the fake driver that says it is an sm_90."""
    root = Path(__file__).parents[4]
    paths = os.pathsep.join([str(site), str(root)])
    done = subprocess.run(
        [sys.executable, str(LIBRARY_PROGRAM)],
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver_folder), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("question", "kernel"),
    [
        ("plain@exact", "fwd_sm90_bf16_d64_causal"),
        ("plain@exact_long", "fwd_sm90_bf16_d64_causal_from16384"),
        ("plain@portable", "fwd_portable_sm90_bf16_d64"),
        ("plain@portable_long", "None"),
        ("plain@ptx", "fwd_portable_ptx80_bf16_d64"),
        ("packed@exact", "fwd_sm90_bf16_d64_causal"),
        ("packed@exact_long", "fwd_sm90_bf16_d64_causal_from16384"),
        ("paged@exact_long", "fwd_sm90_bf16_d64_causal_from16384"),
        ("long@exact", "fwd_sm90_bf16_d64_causal_from16384"),
        ("long@exact_long", "None"),  # the kind without it runs that kernel
        ("far_window@exact", "fwd_sm90_bf16_d64_full"),  # one that hides nothing is none
        ("far_window@exact_long", "None"),
        ("window@exact_long", "fwd_sm90_bf16_d64_local_from2048"),
        ("softcap@exact_long", "fwd_sm90_bf16_d64_local_from2048"),
        ("misaligned@exact", "fwd_sm90_fp16_d96_full"),
        ("misaligned@exact_long", "fwd_sm90_fp16_d96_full_from2048"),
        ("wide@exact", "fwd_sm90_bf16_d64x512_full"),
        ("wider@exact", "None"),
        ("wider@portable", "None"),
        ("join@exact", "None"),
        ("join@portable", "combine_sm90"),
        ("join@portable_long", "None"),
        ("join@ptx", "combine_ptx80"),
    ],
)
def test_the_library_names_the_kernel_of_a_case(answers, question, kernel):
    assert answers[question] == kernel


def test_every_quick_case_has_a_kernel_for_exactly_this_gpu(answers):
    assert int(answers["cases"]) > 400
    assert answers["unserved"] == "0"


def test_every_kernel_has_fixed_cases_of_every_category(answers):
    """As many as a report needs, whatever the number of random cases."""
    fewest = {name: int(count) for name, count in answers.items() if name.startswith("fewest@")}
    assert {name.split("_")[1] for name in fewest} >= {"sm90", "portable", "ptx80"}
    assert {name: count for name, count in fewest.items() if count < read_matrix().release.min_cases} == {}
