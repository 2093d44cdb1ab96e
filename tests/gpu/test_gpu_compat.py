"""The compatibility modules on a GPU: what callers of FlashAttention-3 get is what flash_attn3 computes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch.cuda.is_available() is False", allow_module_level=True)

# Those of a wheel, if one was installed beside the package, and else those of the tree: never another package
# that goes by the same names.
FOLDERS = [*filter(None, os.environ.get("FLASH_ATTN3_SITE", "").split(os.pathsep))]
FOLDERS.append(str(Path(__file__).parents[2] / "compat"))
FOLDER = next((folder for folder in FOLDERS if (Path(folder) / "flash_attn_interface.py").is_file()), None)
if FOLDER is None:
    pytest.skip(f"the compatibility modules are in none of {FOLDERS}", allow_module_level=True)
sys.path.insert(0, FOLDER)

import flash_attn_interface as fa3
from flash_attn3 import flash_attn_func, flash_attn_varlen_func

# torch warns of its own parts while it compiles, of others in every version.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def test_the_modules_are_ours():
    assert Path(fa3.__file__).parent == Path(FOLDER).resolve()
    assert Path(sys.modules["flash_attn_3"].__file__).parents[1] == Path(FOLDER).resolve()


def _tensors(device, seqlen_q=200, seqlen_k=300, heads=8, heads_kv=2):
    """Return q, k and v of two sequences, (batch, seqlen, heads, head_dim)."""
    torch.manual_seed(seqlen_q + 7 * seqlen_k)
    sizes = ((seqlen_q, heads), (seqlen_k, heads_kv), (seqlen_k, heads_kv))
    return tuple(torch.randn(2, *size, 128, device=device, dtype=torch.bfloat16) for size in sizes)


def _exact(q, k, v, *, causal=False):
    """Attention in float64, from its definition."""
    group = q.shape[2] // k.shape[2]
    k, v = (tensor.double().repeat_interleave(group, 2).transpose(1, 2) for tensor in (k, v))
    scores = q.double().transpose(1, 2) @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        seen = torch.ones(scores.shape[-2:], device=q.device, dtype=torch.bool)
        scores = scores.masked_fill(~seen.tril(scores.shape[-1] - scores.shape[-2]), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)


def _assert_right(found, exact):
    (out, lse), (exact_out, exact_lse) = found[:2], exact
    torch.testing.assert_close(out.double(), exact_out, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=0, atol=1e-4)


# ---- PyTorch's own attention


@pytest.fixture
def activated():
    """PyTorch's FA3, served by the operators of the compatibility modules."""
    attention = pytest.importorskip("torch.nn.attention")
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip(f"torch {torch.__version__} cannot activate another flash attention")
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("PyTorch takes FA3 on a GPU of compute capability 9.0 alone")
    attention.activate_flash_attention_impl("FA3")
    with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
        yield
    attention.restore_flash_attention_impl()


@pytest.mark.usefixtures("activated")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_pytorchs_attention_is_ours(device, causal, layout):
    q, k, v = _tensors(device, 300, 300, heads_kv=8)
    turned = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    if layout == "bhsd":
        turned = [tensor.contiguous() for tensor in turned]
    out = scaled_dot_product_attention(*turned, is_causal=causal)
    assert out.stride() == turned[0].stride()
    expected, lse = flash_attn_func(q, k, v, causal=causal, return_attn_probs=True)
    assert torch.equal(out.transpose(1, 2), expected)
    _assert_right((out.transpose(1, 2), lse), _exact(q, k, v, causal=causal))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.usefixtures("activated", "deterministic")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_the_gradient_of_pytorchs_attention_is_ours(device, causal, layout):
    q, k, v = (tensor.requires_grad_() for tensor in _tensors(device, 300, 300, heads_kv=8))
    turned = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    if layout == "bhsd":
        turned = [tensor.contiguous() for tensor in turned]
    dout = torch.randn_like(q)
    ours = flash_attn_func(q, k, v, causal=causal)
    expected = torch.autograd.grad(ours, (q, k, v), dout)
    out = scaled_dot_product_attention(*turned, is_causal=causal)
    found = torch.autograd.grad(out, (q, k, v), dout.transpose(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    exact = _exact(*(tensor.double() for tensor in (q, k, v)), causal=causal)[0]
    wanted = torch.autograd.grad(exact, (q, k, v), dout.double())
    for gradient, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right.double(), rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("activated")
def test_pytorchs_attention_compiles(device):
    torch._dynamo.reset()
    q, k, v = (tensor.transpose(1, 2) for tensor in _tensors(device, 300, 300, heads_kv=8))
    compiled = torch.compile(scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), scaled_dot_product_attention(q, k, v))


# ---- the operators, called by position


def test_gradients_by_position_are_written_to_given_tensors(device):
    """As diffusers calls it: everything by position, gradients in layouts of their own."""
    q, k, v = (tensor.requires_grad_() for tensor in _tensors(device))
    out, lse = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    dout = torch.randn_like(out)
    expected = torch.autograd.grad(flash_attn_func(q, k, v, causal=True, deterministic=True), (q, k, v), dout)
    operands = [tensor.detach() for tensor in (dout, q, k, v, out, lse)]
    given = [torch.full_like(tensor.transpose(1, 2), torch.nan).transpose(1, 2) for tensor in (q, k, v)]
    none = [None] * 6  # sequences and their longest lengths
    fa3._flash_attn_backward(*operands, *none, *given, None, True, -1, -1, 0.0, True)
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def test_a_dense_call_by_position(device):
    q, k, v = _tensors(device)
    found = fa3._flash_attn_forward(q, k, v, *[None] * 20, causal=True)
    expected = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False))
    assert [tuple(tensor.shape) for tensor in found[2:]] == [(0,), (0,)]
    _assert_right(found, _exact(q, k, v, causal=True))


def test_a_call_on_packed_sequences_by_position(device):
    """As TransformerEngine makes it: 20 arguments behind q, k and v, the rest by name."""
    q, k, v = (tensor.flatten(0, 1) for tensor in _tensors(device))
    starts_q, starts_k = (
        torch.tensor([0, *ends], device=device, dtype=torch.int32) for ends in ((200, 400), (300, 600))
    )
    found = fa3._flash_attn_forward(
        *(q, k, v, None, None, None, None, starts_q, starts_k, None, None, None, 200, 300, *[None] * 9),
        softmax_scale=0.07,
        causal=True,
        window_size_left=100,
        window_size_right=0,
    )
    expected = flash_attn_varlen_func(
        *(q, k, v, starts_q, starts_k, 200, 300),
        softmax_scale=0.07,
        causal=True,
        window_size=(100, 0),
        return_attn_probs=True,
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False))


@pytest.mark.parametrize("num_splits", [0, 1, 3])
def test_a_bound_on_splits_does_not_change_the_result(device, num_splits):
    q, k, v = _tensors(device)
    out = torch.ops.flash_attn_3.fwd(q, k, v, num_splits=num_splits, is_causal=True)[0]
    assert torch.equal(out, flash_attn_func(q, k, v, causal=True))


def test_out_of_any_layout_is_written_and_returned(device):
    q, k, v = _tensors(device)
    out = torch.full((2, 8, 200, 128), torch.nan, device=device, dtype=q.dtype).transpose(1, 2)
    returned = torch.ops.flash_attn_3.fwd(q, k, v, None, None, None, out)[0]
    assert returned.data_ptr() == out.data_ptr()
    assert torch.equal(out, flash_attn_func(q, k, v))


@pytest.mark.parametrize("into", [False, True])
def test_opcheck(device, into):
    q, k, v = _tensors(device)
    arguments = (q, k, v, None, None, None, torch.empty_like(q)) if into else (q, k, v)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.flash_attn_3.fwd.default, arguments, test_utils=checks)


# ---- caches and parts


@pytest.mark.parametrize("lengths", [137, (300, 0), None])
def test_a_dense_cache(device, lengths):
    q, k, v = _tensors(device, seqlen_q=4)
    given = torch.tensor(lengths, device=device, dtype=torch.int32) if isinstance(lengths, tuple) else lengths
    out, lse, *_ = fa3.flash_attn_with_kvcache(
        q, k, v, cache_seqlens=given, causal=True, return_softmax_lse=True
    )
    counts = lengths if isinstance(lengths, tuple) else (lengths or 300,) * 2
    for item, count in enumerate(counts):
        if count == 0:
            assert not out[item].any()
            assert (lse[item] == -torch.inf).all()
        else:
            row = slice(item, item + 1)
            exact = _exact(q[row], k[row, :count], v[row, :count], causal=True)
            _assert_right((out[row], lse[row]), exact)


def test_a_cache_in_pages(device):
    q, k, v = _tensors(device, seqlen_q=1, seqlen_k=320)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).to(device)
    table = torch.empty(40, device=device, dtype=torch.int32)
    table[order] = torch.arange(40, device=device, dtype=torch.int32)
    pages = [tensor.reshape(40, 16, 2, 128)[order] for tensor in (k, v)]
    lengths = torch.tensor([313, 5], device=device, dtype=torch.int32)
    expected = fa3.flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths)
    found = fa3.flash_attn_with_kvcache(q, *pages, cache_seqlens=lengths, page_table=table.view(2, 20))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_what_servers_give_on_every_call_changes_nothing(device):
    """Scales of FP8, lengths of new keys without keys, a plan with room for them, a length in a tensor."""
    q, k, v = _tensors(device, seqlen_q=2, seqlen_k=320)
    lengths = torch.tensor([313, 5], device=device, dtype=torch.int32)
    starts = torch.tensor([0, 2, 4], device=device, dtype=torch.int32)
    longest = starts.diff().max()
    scale = torch.full((1,), 3.0, device=device).expand(2, 2)
    call = {"cache_seqlens": lengths, "cu_seqlens_q": starts}
    expected = fa3.flash_attn_with_kvcache(q.flatten(0, 1), k, v, **call, max_seqlen_q=2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        plan = fa3.get_scheduler_metadata(
            *(2, longest, 320, 8, 2, 128, lengths), cu_seqlens_k_new=starts, max_seqlen_k_new=4
        )
        found = fa3.flash_attn_with_kvcache(
            *(q.flatten(0, 1), k, v),
            **call,
            cu_seqlens_k_new=starts,
            max_seqlen_q=longest,
            q_descale=scale,
            k_descale=scale,
            v_descale=scale,
            scheduler_metadata=plan,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_parts_of_the_keys_are_combined(device, dtype):
    q, k, v = _tensors(device)
    parts = [
        fa3.flash_attn_func(q, k[:, first:last], v[:, first:last], return_attn_probs=True)
        for first, last in ((0, 64), (64, 192), (192, 300))
    ]
    out_partial = torch.stack([out for out, _ in parts]).float()
    lse_partial = torch.stack([lse for _, lse in parts]).transpose(-1, -2)
    exact_out, exact_lse = _exact(q, k, v)
    for out, lse in (
        fa3.flash_attn_combine(out_partial, lse_partial, out_dtype=dtype),
        torch.ops.flash_attn_3.fwd_combine(out_partial, lse_partial, None, dtype),
    ):
        assert out.dtype == dtype
        _assert_right((out, lse.transpose(-1, -2)), (exact_out, exact_lse))
    into = torch.empty_like(q, dtype=dtype)
    assert torch.ops.flash_attn_3.fwd_combine(out_partial, lse_partial, into)[0].data_ptr() == into.data_ptr()
    assert torch.equal(into, out)


# ---- transformers


def _models(transformers, device):
    """Return a small model twice, with PyTorch's attention and with ours."""
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    plain, ours = (
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation=name)
        .to(device, torch.bfloat16)
        .eval()
        for name in ("sdpa", "flash_attention_3")
    )
    ours.load_state_dict(plain.state_dict())
    return plain, ours


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_of_transformers_says_the_same(device, transformers, padded):
    plain, ours = _models(transformers, device)
    tokens = torch.randint(100, (2, 50), device=device)
    mask = torch.ones_like(tokens)
    mask[0, : 20 * padded] = 0
    called = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
            called.append(func.namespace)
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        expected = plain(tokens, attention_mask=mask).logits[mask.bool()].float()
        with Calls():
            found = ours(tokens, attention_mask=mask).logits[mask.bool()].float()
    assert called.count("flash_attn3") == 2  # layers
    assert (found - expected).std() < 0.03 * expected.std()


def test_continuous_batching_of_transformers_says_the_same(device, transformers):
    """It appends to its cache through flash_attn_with_kvcache where it decodes."""
    _, ours = _models(transformers, device)
    prompts = torch.randint(1, 100, (3, 40)).tolist()
    prompts = [prompt[:length] for prompt, length in zip(prompts, (40, 1, 17), strict=True)]
    config = transformers.GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
    found = ours.generate_batch(prompts, generation_config=config, progress_bar=False)
    assert len(found) == len(prompts)
    for prompt in prompts:
        (output,) = (output for output in found.values() if output.prompt_ids == prompt)
        assert output.error is None
        assert len(output.generated_tokens) == 6
        with torch.no_grad():
            logits = ours(torch.tensor([prompt], device=device)).logits[0, -1].float()
        assert logits[output.generated_tokens[0]] > logits.max() - 0.1 * logits.std()
