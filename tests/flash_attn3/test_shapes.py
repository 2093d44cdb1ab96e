"""Fake and meta tensors, torch.compile, torch.export and vmap: no kernel runs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from flash_attn3 import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func
from tests.flash_attn3.operator_calls import Calls

# torch.compile instantiates every autograd.Function that it traces, which torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
_WIDE = [(64, 512, 512), (64, 256, 256), (40, 384, 384), (64, 136, 136), (8, 509, 512)]
SHAPE_Q, SHAPE_K = (2, 64, 4, 128), (2, 33, 2, 128)


def _empty(shape, device="meta", **options):
    return torch.empty(shape, dtype=torch.bfloat16, device=device, **options)


def _attention(q, k, v):
    return flash_attn_func(q, k, v, causal=True, return_attn_probs=True)


class _Module(torch.nn.Module):
    def forward(self, q, k, v):
        return _attention(q, k, v)


def _fake_inputs():
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _empty(SHAPE_Q, "cuda"), _empty(SHAPE_K, "cuda"), _empty(SHAPE_K, "cuda")


@pytest.mark.parametrize("shape_q", [SHAPE_Q, (2, 0, 4, 128), (1, 1, 6, 128)])
@pytest.mark.parametrize("seqlen_k", [0, 1, 33])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fake_results_are_shaped_like_real_ones(shape_q, seqlen_k, dtype):
    batch, seqlen_q, heads, head_dim = shape_q
    with FakeTensorMode():
        q = torch.empty(batch, heads, seqlen_q, head_dim, dtype=dtype, device="cuda").transpose(1, 2)
        k = torch.empty(batch, seqlen_k, heads // 2, head_dim, dtype=dtype, device="cuda")
        out, lse = flash_attn_func(q, k, k, return_attn_probs=True)
    assert (out.shape, out.dtype, out.device.type) == (shape_q, dtype, "cuda")
    assert out.is_contiguous()
    assert (lse.shape, lse.dtype, lse.device.type) == ((batch, heads, seqlen_q), torch.float32, "cuda")
    assert lse.is_contiguous()


def test_fake_errors_are_those_of_a_call():
    with (
        FakeTensorMode(),
        pytest.raises(ValueError, match="k must have a number of heads that divides q's 4"),
    ):
        flash_attn_func(
            _empty(SHAPE_Q, "cuda"), _empty((2, 9, 3, 128), "cuda"), _empty((2, 9, 3, 128), "cuda")
        )
    with FakeTensorMode(), pytest.raises(ValueError, match="q must be a CUDA tensor; it is on cpu"):
        flash_attn_func(_empty(SHAPE_Q, "cpu"), _empty(SHAPE_K, "cpu"), _empty(SHAPE_K, "cpu"))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_compile_makes_one_graph(dynamic, needs_grad):
    torch._dynamo.reset()
    compiled = torch.compile(_attention, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for seqlen_q, seqlen_k in ((64, 33), (5, 70)):
        q = _empty((2, seqlen_q, 4, 128), requires_grad=needs_grad)
        out, lse = compiled(q, _empty((2, seqlen_k, 2, 128)), _empty((2, seqlen_k, 2, 128)))
        assert out.shape == q.shape
        assert lse.shape == (2, 4, seqlen_q)
        assert out.requires_grad == needs_grad


def test_the_refusal_of_a_backward_pass_raises():
    """With data: tensors without data trace a compiled graph. See also tests/gpu."""
    tensor = torch.zeros(1, 1, 1, 128, dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match="no kernel for this backward pass"):
        torch.ops.flash_attn3.refuse_backward(tensor, [tensor])


@pytest.mark.parametrize("needing", [0, 1, 2])
def test_any_input_that_needs_a_gradient_records_the_backward(needing):
    tensors = [_empty(shape) for shape in (SHAPE_Q, SHAPE_K, SHAPE_K)]
    tensors[needing].requires_grad_()
    out, lse = _attention(*tensors)
    assert type(out.grad_fn).__name__ == type(lse.grad_fn).__name__ == "PlainGradientBackward"


def test_without_grad_nothing_is_recorded():
    tensors = [_empty(shape, requires_grad=True) for shape in (SHAPE_Q, SHAPE_K, SHAPE_K)]
    with torch.no_grad():
        out = flash_attn_func(*tensors)
    assert not out.requires_grad


def test_export_holds_one_operator():
    program = torch.export.export(_Module(), _fake_inputs())
    calls = [node for node in program.graph.nodes if str(node.target) == "flash_attn3.fwd.default"]
    assert len(calls) == 1
    assert calls[0].args[4] is True


def test_export_with_any_batch_and_lengths():
    batch, seqlen_q, seqlen_k = (torch.export.Dim(name) for name in ("batch", "seqlen_q", "seqlen_k"))
    shapes = ({0: batch, 1: seqlen_q}, {0: batch, 1: seqlen_k}, {0: batch, 1: seqlen_k})
    program = torch.export.export(_Module(), _fake_inputs(), dynamic_shapes=shapes)
    assert len(program.range_constraints) == 3
    (out, _) = (output.arg.name for output in program.graph_signature.output_specs)
    value = next(node for node in program.graph.nodes if node.name == out).meta["val"]
    assert [isinstance(size, torch.SymInt) for size in value.shape] == [True, True, False, False]


@pytest.mark.parametrize("needs_grad", [False, True])
def test_vmap_is_refused(needs_grad):
    tensors = [_empty((3, *shape), requires_grad=needs_grad) for shape in (SHAPE_Q, SHAPE_K, SHAPE_K)]
    with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
        torch.vmap(flash_attn_func)(*tensors)


def _int32(size):
    return torch.empty(size, dtype=torch.int32, device="meta")


def _varlen(q, k, v, starts, used, **options):
    return flash_attn_varlen_func(
        q, k, v, starts, starts, 40, 50, seqused_k=used, causal=True, return_attn_probs=True, **options
    )


@pytest.mark.parametrize(
    ("head_dim", "head_dim_v", "row"),
    [(64, 64, 64), (40, 40, 40), (59, 59, 64), (59, 32, 32), (64, 33, 40), (1, 1, 8), *_WIDE],
)
def test_rows_are_padded_where_they_must_be(head_dim, head_dim_v, row):
    q, k, v = (_empty((2, 7, 4, size)) for size in (head_dim, head_dim, head_dim_v))
    for options in ({}, {"softcap": 3.0}):
        out = flash_attn_func(q, k, v, **options)
        assert out.shape == (2, 7, 4, head_dim_v)
        assert out.stride() == (7 * 4 * row, 4 * row, row, 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("paged", [False, True])
def test_fake_results_of_varlen(packed, paged):
    q = _empty((70, 4, 128) if packed else (3, 30, 4, 128))
    k = _empty((9, 16, 2, 128) if paged else (3, 50, 2, 128))
    table = _int32((3, 4)) if paged else None
    starts = _int32(4) if packed else None
    arguments = (q, k, k, starts, None, 30, 50)
    out, lse = flash_attn_varlen_func(
        *arguments, seqused_k=_int32(3), page_table=table, return_attn_probs=True
    )
    assert out.shape == q.shape
    assert out.is_contiguous()
    assert lse.shape == ((4, 70) if packed else (3, 4, 30))
    target = torch.empty_like(q)
    written = flash_attn_varlen_func(*arguments, seqused_k=_int32(3), page_table=table, out=target)
    assert written is target


def test_fake_results_of_packed_tensors():
    assert flash_attn_qkvpacked_func(_empty((2, 9, 3, 4, 64))).shape == (2, 9, 4, 64)
    assert flash_attn_qkvpacked_func(_empty((2, 9, 10, 64)), num_heads_q=6).shape == (2, 9, 6, 64)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_compile_of_varlen_makes_one_graph(dynamic, needs_grad):
    """Lengths of q and of k in one tensor, as self-attention has them."""
    torch._dynamo.reset()
    compiled = torch.compile(_varlen, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for tokens, batch in ((64, 2), (77, 5)):
        q, k = _empty((tokens, 4, 128), requires_grad=needs_grad), _empty((tokens, 2, 128))
        starts, used = _int32(batch + 1), _int32(batch)
        sink = torch.empty(4, device="meta", requires_grad=needs_grad)
        out, lse = compiled(q, k, _empty((tokens, 2, 128)), starts, used, s_aux=sink, window_size=(9, 0))
        assert out.shape == q.shape
        assert lse.shape == (4, tokens)
        assert out.requires_grad == needs_grad


def _longest(q, k, starts, longest):
    return flash_attn_varlen_func(q, k, k, starts, starts, longest, longest, causal=True)


@pytest.mark.parametrize(("dynamic", "graphs"), [(True, 1), (None, 2)])
def test_the_longest_length_makes_no_new_graph(dynamic, graphs):
    """It differs from batch to batch; without `dynamic` torch makes it symbolic at the second value."""
    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(_longest, backend=count, fullgraph=True, dynamic=dynamic)
    q, k, starts = _empty((64, 4, 128)), _empty((64, 2, 128)), _int32(3)
    for longest in (40, 41, 57, 63, 64):
        assert compiled(q, k, starts, longest).shape == q.shape
    assert count.frame_count == graphs


@pytest.mark.parametrize(
    ("dynamic", "needs_grad", "device"), [(False, False, "meta"), (True, True, "meta"), (True, False, "cpu")]
)
def test_compile_takes_the_longest_length_in_a_tensor(dynamic, needs_grad, device):
    """As vision models pass it. Another value makes no new graph, and no value is read."""
    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(_longest, backend=count, fullgraph=True, dynamic=dynamic)
    q, k, starts = _empty((64, 4, 128), requires_grad=needs_grad), _empty((64, 2, 128)), _int32(3)
    for longest in (40, 41, 64):
        out = compiled(q, k, starts, torch.full((), longest, device=device))
        assert out.shape == q.shape
        assert out.requires_grad == needs_grad
    assert count.frame_count == 1


def test_compile_finds_the_longest_length_itself():
    torch._dynamo.reset()

    def attention(q, k, starts):
        return _longest(q, k, starts, starts.diff().max())

    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    q, k = _empty((64, 4, 128)), _empty((64, 2, 128))
    assert compiled(q, k, _int32(3)).shape == q.shape


class _Packed(torch.nn.Module):
    def forward(self, q, k, starts, longest):
        return _longest(q, k, starts, longest)


def test_export_takes_the_longest_length_in_a_tensor():
    with FakeTensorMode(allow_non_fake_inputs=True):
        starts, longest = (torch.empty(size, dtype=torch.int32, device="cuda") for size in ((3,), ()))
        q, k = _empty((64, 4, 128), "cuda"), _empty((64, 2, 128), "cuda")
    tokens = torch.export.Dim("tokens")
    shapes = ({0: tokens}, {0: tokens}, None, None)
    program = torch.export.export(_Packed(), (q, k, starts, longest), dynamic_shapes=shapes)
    (call,) = (node for node in program.graph.nodes if str(node.target) == "flash_attn3.fwd_varlen.default")
    assert len(program.range_constraints) == 1
    rows = next(iter(program.range_constraints))
    assert [number.meta["val"].node.expr for number in call.args[7:9]] == [rows, rows]


@pytest.mark.parametrize(
    ("longest", "seen"),
    [
        (torch.tensor(40), 40),
        (torch.tensor([41], dtype=torch.int32), 41),
        (torch.empty((), dtype=torch.int64, device="meta"), 64),
        (torch.nn.Parameter(torch.tensor(40), requires_grad=False), 64),
    ],
)
def test_a_longest_length_is_read_where_that_takes_no_time(longest, seen):
    """Elsewhere the rows of all sequences are the bound."""
    q, k, starts = _empty((64, 4, 128)), _empty((70, 2, 128)), _int32(3)
    with Calls() as calls:
        flash_attn_varlen_func(q, k, k, starts, starts, longest, 50)
        flash_attn_varlen_func(q, k, k, starts, starts, 50, longest, seqused_k=_int32(2))
        flash_attn_varlen_func(q, q, q, starts, starts, longest, longest, out=torch.empty_like(q))
    (_, first), (_, second), (_, third) = calls.seen
    assert (first["max_seqlen_q"], first["max_seqlen_k"]) == (seen, 50)
    assert (second["max_seqlen_q"], second["max_seqlen_k"]) == (50, 70 if seen == 64 else seen)
    assert (third["max_seqlen_q"], third["max_seqlen_k"]) == (seen, seen)


def test_a_fake_longest_length_is_not_read():
    with FakeTensorMode():
        q, k = _empty((64, 4, 128), "cuda"), _empty((64, 2, 128), "cuda")
        starts = torch.empty(3, dtype=torch.int32, device="cuda")
        assert _longest(q, k, starts, torch.empty((), dtype=torch.int32)).shape == q.shape


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_writes_to_out(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_varlen, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    q, k = _empty((64, 4, 128)), _empty((64, 2, 128))
    target = torch.empty_like(q)
    out, _ = compiled(q, k, _empty((64, 2, 128)), _int32(3), _int32(2), out=target)
    assert out is target


def test_a_sink_alone_that_needs_a_gradient_records_the_backward():
    sink = torch.empty(4, device="meta", requires_grad=True)
    out = flash_attn_func(_empty(SHAPE_Q), _empty(SHAPE_K), _empty(SHAPE_K), learnable_sink=sink)
    assert type(out.grad_fn).__name__ == "GeneralGradientBackward"


@pytest.mark.parametrize(
    ("name", "lengths", "options"),
    [
        ("fwd", None, {"pack_gqa": True, "num_splits": 3}),
        ("fwd_masked", None, {"softcap": 3.0}),
        ("fwd_masked", None, {"learnable_sink": torch.empty(4, device="meta")}),
        ("fwd_varlen", ("q", "k"), {}),
        ("fwd_varlen", ("q",), {"window_size": (3, 0)}),
        ("fwd_varlen", (), {}),
        ("fwd_varlen", ("k",), {"softcap": 3.0}),
        ("fwd_general", ("q", "k"), {"seqused_k": True}),
        ("fwd_general", (), {"seqused_q": True, "sm_margin": 2}),
    ],
)
def test_the_shortest_operator_serves(name, lengths, options):
    """Fewer arguments take less time."""
    options = {key: _int32(3) if key.startswith("seqused") else value for key, value in options.items()}
    with Calls() as calls:
        if lengths is None:
            flash_attn_func(_empty(SHAPE_Q), _empty(SHAPE_K), _empty(SHAPE_K), **options)
        else:
            q, k = (_empty((70, 4, 64) if side in lengths else (3, 30, 4, 64)) for side in "qk")
            starts = (_int32(4) if side in lengths else None for side in "qk")
            flash_attn_varlen_func(q, k, k, *starts, 30, 30, **options)
    assert [seen for seen, _ in calls.seen] == [name]


class _General(torch.nn.Module):
    def forward(self, q, k, v):
        return flash_attn_func(q, k, v, causal=True, window_size=(100, 0), softcap=20.0)


def test_export_of_a_window_holds_for_any_length():
    batch, seqlen_q, seqlen_k = (torch.export.Dim(name) for name in ("batch", "seqlen_q", "seqlen_k"))
    shapes = ({0: batch, 1: seqlen_q}, {0: batch, 1: seqlen_k}, {0: batch, 1: seqlen_k})
    program = torch.export.export(_General(), _fake_inputs(), dynamic_shapes=shapes)
    (call,) = (node for node in program.graph.nodes if str(node.target) == "flash_attn3.fwd_masked.default")
    assert call.args[5:7] == (100, 0)
    assert len(program.range_constraints) == 3


@pytest.mark.parametrize(
    "name",
    [
        *("fwd", "fwd_qkvpacked", "fwd_masked", "fwd_varlen", "fwd_general", "fwd_into"),
        *("combine", "combine_into", "append", "append_rotating"),
    ],
)
def test_operators_say_what_they_write(name):
    schema = getattr(torch.ops.flash_attn3, name).default._schema
    written = [argument.name for argument in schema.arguments if argument.is_write]
    caches = ["k_cache", "v_cache"] if name.startswith("append") else []
    assert written == (["out"] if name.endswith("_into") else caches)


def test_a_training_step_calls_both_operators():
    leaves = [_empty(shape, requires_grad=True) for shape in (SHAPE_Q, SHAPE_K, SHAPE_K)]
    with Calls() as calls:
        out, lse = _attention(*leaves)
        (out.float().sum() + lse.sum()).backward()
    assert [name for name, _ in calls.seen] == ["fwd", "bwd"]
    assert [leaf.grad.shape for leaf in leaves] == [leaf.shape for leaf in leaves]


def test_the_gradient_of_one_tensor_of_q_k_and_v_is_one_tensor():
    qkv = _empty((2, 64, 3, 4, 128), requires_grad=True)
    with Calls() as calls:
        flash_attn_qkvpacked_func(qkv, causal=True).float().sum().backward()
    assert [name for name, _ in calls.seen] == ["fwd_masked", "bwd_into"]
    assert qkv.grad.shape == qkv.shape
