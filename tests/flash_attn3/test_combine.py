"""The public call, as far as it goes without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flash_attn3 import _native, flash_attn_combine
from flash_attn3.checks.ops.combine import OUT_DTYPES

# torch.compile instantiates every autograd.Function that it traces, which torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def _tensor(*shape, dtype=torch.float32, device="meta"):
    return torch.empty(shape, dtype=dtype, device=device)


OUT, LSE = _tensor(3, 2, 7, 4, 64), _tensor(3, 2, 7, 4)


@pytest.fixture
def combines(monkeypatch):
    """A build that can combine, whatever the kernel table holds."""
    kernel = _native.Kernel("combine", "combine", "any", "12.8", 80, "fp32", "any", 0, 0, "portable")
    monkeypatch.setattr(_native, "kernels", lambda: (kernel,))


@pytest.mark.usefixtures("combines")
class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((1, LSE), TypeError, "out_partial must be a torch.Tensor; its type is int"),
            ((OUT, None), TypeError, "lse_partial must be a torch.Tensor; its type is NoneType"),
            ((OUT.half(), LSE), TypeError, "out_partial must be torch.float32; it is torch.float16"),
            ((OUT, LSE.double()), TypeError, "lse_partial must be torch.float32; it is torch.float64"),
            ((torch.zeros(OUT.shape), LSE), ValueError, "out_partial must be a CUDA tensor; it is on cpu"),
            ((OUT, torch.zeros(LSE.shape)), ValueError, "lse_partial must be a CUDA tensor; it is on cpu"),
            ((OUT[0, 0], LSE), ValueError, "out_partial must have shape (splits, batch, seqlen, heads, head_dim_v) or (splits, total, heads, head_dim_v); its shape is (7, 4, 64)"),
            ((OUT, LSE[:, 1:]), ValueError, "lse_partial must have shape (3, 2, 7, 4), that of out_partial without head_dim_v; its shape is (3, 1, 7, 4)"),
            ((OUT[:0], LSE[:0]), ValueError, "out_partial must have 1 to 256 splits; it has 0"),
            ((_tensor(257, 1, 1, 8), _tensor(257, 1, 1)), ValueError, "out_partial must have 1 to 256 splits; it has 257"),
            ((_tensor(2, 1, 1, 0), _tensor(2, 1, 1)), ValueError, "out_partial must have a head_dim_v of 1 or more; its shape is (2, 1, 1, 0)"),
            ((_tensor(2, 1, 1, 513), _tensor(2, 1, 1)), NotImplementedError, "out_partial has head_dim_v 513; this build combines up to 512"),
            ((OUT, LSE, None, "bf16"), TypeError, "out_dtype must be a torch.dtype or None; its type is str"),
            ((OUT, LSE, None, torch.float64), TypeError, "out_dtype must be torch.float32, torch.float16 or torch.bfloat16; it is torch.float64"),
            ((OUT, LSE, 1), TypeError, "out must be a torch.Tensor; its type is int"),
            ((OUT, LSE, OUT[0].double()), TypeError, "out must be torch.float32, torch.float16 or torch.bfloat16; it is torch.float64"),
            ((OUT, LSE, OUT[0], torch.float16), ValueError, "out_dtype must be the dtype of out, torch.float32, or None; it is torch.float16"),
            ((OUT, LSE, torch.zeros(OUT.shape[1:])), ValueError, "out must be on the device of out_partial, meta; it is on cpu"),
            ((OUT, LSE, OUT[0, 1:]), ValueError, "out must have shape (2, 7, 4, 64); its shape is (1, 7, 4, 64)"),
            ((OUT.clone().requires_grad_(), LSE, OUT[0]), ValueError, "out must be None when out_partial or lse_partial requires a gradient"),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_argument_is_named(self, arguments, error, message):
        with pytest.raises(error) as caught:
            flash_attn_combine(*arguments)
        assert str(caught.value) == message
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("out_dtype", [None, *OUT_DTYPES.values()])
    def test_results_are_shaped_as_documented(self, out_dtype, packed):
        out_partial, lse_partial = (OUT[:, 0], LSE[:, 0]) if packed else (OUT, LSE)
        out, lse = flash_attn_combine(out_partial, lse_partial, out_dtype=out_dtype)
        assert (out.shape, out.dtype) == (out_partial.shape[1:], out_dtype or torch.float32)
        assert out.is_contiguous()
        assert (lse.shape, lse.dtype) == (lse_partial.shape[1:], torch.float32)
        assert lse.transpose(-1, -2).is_contiguous()

    def test_it_writes_to_out(self):
        target = _tensor(2, 7, 4, 80, dtype=torch.bfloat16)[..., :64]
        out, lse = flash_attn_combine(OUT, LSE, target)
        assert out is target
        assert lse.shape == (2, 7, 4)
        assert flash_attn_combine(OUT, LSE, target, torch.bfloat16)[0] is target

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("needs_grad", [False, True])
    def test_compile_makes_one_graph(self, dynamic, needs_grad):
        torch._dynamo.reset()
        compiled = torch.compile(flash_attn_combine, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        for splits in (3, 5):
            out_partial = _tensor(splits, 20, 4, 64).requires_grad_(needs_grad)
            out, lse = compiled(out_partial, _tensor(splits, 20, 4), out_dtype=torch.float16)
            assert (out.shape, out.dtype, lse.shape) == ((20, 4, 64), torch.float16, (20, 4))
            assert out.requires_grad == lse.requires_grad == needs_grad

    def test_export_holds_one_operator(self):
        class Module(torch.nn.Module):
            def forward(self, out_partial, lse_partial):
                return flash_attn_combine(out_partial, lse_partial, out_dtype=torch.bfloat16)

        with FakeTensorMode(allow_non_fake_inputs=True):
            inputs = _tensor(3, 20, 4, 64, device="cuda"), _tensor(3, 20, 4, device="cuda")
        rows = torch.export.Dim("rows")
        program = torch.export.export(Module(), inputs, dynamic_shapes=({1: rows}, {1: rows}))
        calls = [node for node in program.graph.nodes if str(node.target) == "flash_attn3.combine.default"]
        assert len(calls) == 1

    def test_vmap_is_refused(self):
        with pytest.raises(NotImplementedError, match=r"does not support torch\.vmap"):
            torch.vmap(flash_attn_combine)(OUT[None], LSE[None])


def test_a_build_without_the_kernel_says_so(monkeypatch):
    monkeypatch.setattr(_native, "kernels", tuple)
    with pytest.raises(NotImplementedError, match="this build has no kernel that combines partial results"):
        flash_attn_combine(OUT, LSE)
