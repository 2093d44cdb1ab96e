from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flash_attn3.checks.speed.race_attention import RaceInputs
from flash_attn3.checks.speed.race_peer import NAMESPACES, PeerMissing, call_fa3, load_peer
from flash_attn3.checks.speed.race_settings import AttentionSetting

# The operator that its callers call by position.
SCHEMA = (
    "flash_attn_3::fwd(Tensor q, Tensor k, Tensor v, Tensor(k_new!)? k_new=None, Tensor(v_new!)? v_new=None, "
    "Tensor? q_v=None, Tensor(out!)? out=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
    "Tensor? cu_seqlens_k_new=None, Tensor? seqused_q=None, Tensor? seqused_k=None, int? max_seqlen_q=None, "
    "int? max_seqlen_k=None, Tensor? page_table=None, Tensor? kv_batch_idx=None, Tensor? leftpad_k=None, "
    "Tensor? rotary_cos=None, Tensor? rotary_sin=None, Tensor? seqlens_rotary=None, Tensor? q_descale=None, "
    "Tensor? k_descale=None, Tensor? v_descale=None, float? softmax_scale=None, bool is_causal=False, "
    "int window_size_left=-1, int window_size_right=-1, int attention_chunk=0, float softcap=0.0, "
    "bool is_rotary_interleaved=False, Tensor? scheduler_metadata=None, int num_splits=0, "
    "bool? pack_gqa=None, int sm_margin=0) -> (Tensor(out!), Tensor, Tensor, Tensor)"
)
NAMES = [argument.name for argument in torch._C.parse_schema(SCHEMA).arguments]


@pytest.fixture(params=NAMESPACES)
def calls(monkeypatch, request):
    found = []

    def fwd(*arguments):
        found.append(dict(zip(NAMES, arguments, strict=True)))
        return (arguments[0], None, None, None)

    for namespace in NAMESPACES:
        registered = SimpleNamespace(fwd=fwd) if namespace == request.param else SimpleNamespace()
        monkeypatch.setattr(torch.ops, namespace, registered, raising=False)
    return found


def _call(setting, calls, cu_seqlens=None):
    q, k, v = (torch.zeros(1) for _ in range(3))
    assert call_fa3(setting, RaceInputs(q, k, v, cu_seqlens)) is q
    (call,) = calls
    assert call.pop("q") is q
    assert call.pop("k") is k
    assert call.pop("v") is v
    return {name: value for name, value in call.items() if value is not None}


PLAIN = {
    "softmax_scale": 0.125,
    "is_causal": False,
    "window_size_left": -1,
    "window_size_right": -1,
    "attention_chunk": 0,
    "softcap": 0.0,
    "is_rotary_interleaved": True,
    "num_splits": 1,
    "sm_margin": 0,
}


def test_a_dense_call(calls):
    assert len(NAMES) == 34
    assert _call(AttentionSetting("bf16", 64, False, 1024), calls) == PLAIN


def test_a_causal_window(calls):
    setting = AttentionSetting("bf16", 64, True, 4096, window=1024)
    wanted = {**PLAIN, "is_causal": True, "window_size_left": 1024, "window_size_right": 0}
    assert _call(setting, calls) == wanted


def test_a_varlen_call(calls):
    starts = torch.tensor([0, 3], dtype=torch.int32)
    call = _call(AttentionSetting("bf16", 64, False, 16384, varlen=True), calls, starts)
    assert call.pop("cu_seqlens_q") is starts
    assert call.pop("cu_seqlens_k") is starts
    assert call == {**PLAIN, "max_seqlen_q": 16384, "max_seqlen_k": 16384}


def test_what_is_no_peer_is_refused(tmp_path):
    broken = tmp_path / "libpeer.so"
    broken.write_text("not a library")
    with pytest.raises(PeerMissing, match=r"peer .*libpeer\.so: cannot be loaded: .*"):
        load_peer((broken,))
    load_peer(())


def test_a_library_without_the_operator_is_refused(monkeypatch):
    for namespace in NAMESPACES:
        monkeypatch.setattr(torch.ops, namespace, SimpleNamespace(), raising=False)
    other = Path(torch.__file__).parent / "lib" / "libc10.so"
    with pytest.raises(PeerMissing, match=r"libc10\.so: registers no torch\.ops\.flash_attn_3\.fwd"):
        load_peer((other,))
