"""The operator library in a real torch, on CPU tensors. Each scenario runs in a process of its own, because a
process can hold one library that registers the operator."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.kernels.host.host_api import GENERAL

if TYPE_CHECKING:
    from collections.abc import Callable

BF16 = torch.bfloat16
SHAPE = (1, 2, 3, 64)


def zeros(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(*(shape or SHAPE), dtype=dtype)


def thrown(call: Callable[[], object]) -> str:
    """The message of the RuntimeError that `call` must end with."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no error was raised")


def fwd(
    q: torch.Tensor | None = None,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    softmax_scale: float = 1.0,
    sm_margin: int = 0,
) -> object:
    tensors = [zeros() if tensor is None else tensor for tensor in (q, k, v)]
    return torch.ops.flash_attn3.fwd(*tensors, softmax_scale, False, sm_margin)


def schema() -> None:
    assert str(torch.ops.flash_attn3.fwd.default._schema) == (
        "flash_attn3::fwd(Tensor q, Tensor k, Tensor v, float? softmax_scale, bool causal, int sm_margin=0)"
        " -> (Tensor out, Tensor lse)"
    )


def errors_become_runtime_errors() -> None:
    cases = {
        "q is on cpu, but this operator needs CUDA tensors": fwd,
        "q has 3 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": lambda: fwd(
            q=zeros(2, 3, 64)
        ),
        "v has 1 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": lambda: fwd(v=zeros(8)),
        "q has dtype float32; it should be float16 or bfloat16": lambda: fwd(q=zeros(dtype=torch.float32)),
        "q has dtype float8_e4m3fn; it should be float16 or bfloat16": lambda: fwd(
            q=zeros(dtype=torch.float8_e4m3fn)
        ),
        "q has dtype int64; it should be float16 or bfloat16": lambda: fwd(q=zeros(dtype=torch.int64)),
        "k has dtype float16; it should be bfloat16, as in q": lambda: fwd(k=zeros(dtype=torch.float16)),
        "v has dtype bool; it should be bfloat16, as in q": lambda: fwd(v=zeros(dtype=torch.bool)),
        "q has head_dim 0; it should be positive": lambda: fwd(q=zeros(1, 2, 3, 0)),
        "k has head_dim 32; it should be 64, as in q": lambda: fwd(k=zeros(1, 2, 3, 32)),
        "k has batch 2; it should be 1, as in q": lambda: fwd(k=zeros(2, 2, 3, 64)),
        "v has seqlen 5; it should be 2, as in k": lambda: fwd(v=zeros(1, 5, 3, 64)),
        "v has heads 1; it should be 3, as in k": lambda: fwd(v=zeros(1, 2, 1, 64)),
        "q has 3 heads and k has 2; q's should be a multiple of k's": lambda: fwd(
            k=zeros(1, 2, 2, 64), v=zeros(1, 2, 2, 64)
        ),
        "softmax_scale is nan; it should be a finite float32": lambda: fwd(softmax_scale=float("nan")),
        "softmax_scale is inf; it should be a finite float32": lambda: fwd(softmax_scale=1e300),
        "sm_margin is -3; it should be between 0 and 2147483647": lambda: fwd(sm_margin=-3),
        "sm_margin is 4294967296; it should be between 0 and 2147483647": lambda: fwd(sm_margin=2**32),
    }
    for message, call in cases.items():
        assert thrown(call) == f"flash_attn3: {message}"


def general(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, out: torch.Tensor | None = None, **changes: object
) -> object:
    """Call `fwd_general`, or with `out` `fwd_into`, with arguments by name."""
    arguments = list((GENERAL | changes).values())
    if out is None:
        return torch.ops.flash_attn3.fwd_general(q, k, v, *arguments)
    return torch.ops.flash_attn3.fwd_into(out, q, k, v, *arguments)


def optional_tensors_arrive() -> None:
    """Torch's own boxes of optional tensors: each is read under its name, and None is none."""
    q = zeros()
    index = torch.zeros(1, dtype=torch.int32)
    packed = zeros(4, 3, 64)
    cases: dict[str, Callable[[], object]] = {
        "q is on cpu, but this operator needs CUDA tensors": lambda: general(q, q, q),
        "seqused_q has dtype int64; it should be int32": lambda: general(q, q, q, seqused_q=index.long()),
        "seqused_k has 2 elements; it should have 1: (batch,)": lambda: general(
            q, q, q, seqused_q=index, seqused_k=torch.zeros(2, dtype=torch.int32)
        ),
        "cu_seqlens_q has 0 elements; it should have 1 to 2147483647": lambda: general(
            packed, q, q, cu_seqlens_q=index[:0]
        ),
        "q has 4 dimensions; it should have 3: (total, heads, head_dim)": lambda: general(
            q, q, q, cu_seqlens_q=index
        ),
        "cu_seqlens_k has 1 elements; it should have 2: (batch + 1,)": lambda: general(
            q, packed, packed, cu_seqlens_k=index
        ),
        "k has 3 dimensions; it should have 4: (pages, page_size, heads, head_dim)": lambda: general(
            q, packed, packed, page_table=index[None]
        ),
        "page_table has 1 dimensions; it should have 2: (batch, columns)": lambda: general(
            q, q, q, seqused_k=index, page_table=index
        ),
        "sink has dtype bfloat16; it should be float32": lambda: general(q, q, q, sink=zeros(3)),
        "sink has 2 elements; it should have 3: (heads,)": lambda: general(q, q, q, sink=torch.zeros(2)),
    }
    for message, call in cases.items():
        assert thrown(call) == f"flash_attn3: {message}"
    assert "q is on cpu" in thrown(
        lambda: general(q, q, q, seqused_k=index, page_table=index[None], sink=torch.zeros(3), out=q)
    )
    before = sys.getrefcount(index)
    for _ in range(10_000):
        assert "q is on cpu" in thrown(
            lambda: general(q, q, q, seqused_q=index, seqused_k=index, page_table=index[None])
        )
    assert sys.getrefcount(index) == before
    assert index._use_count() == 1 if hasattr(index, "_use_count") else True


def dtypes_arrive() -> None:
    """A dtype, by its number or of a tensor: each that is taken leads to the next check, others are named."""
    parts, lse = torch.zeros(3, *SHAPE), torch.zeros(3, *SHAPE[:3])
    combine, combine_into = torch.ops.flash_attn3.combine, torch.ops.flash_attn3.combine_into
    on_cpu = "flash_attn3: out_partial is on cpu, but this operator needs CUDA tensors"
    for number in range(3):
        assert thrown(lambda number=number: combine(parts, lse, number)) == on_cpu
    message = thrown(lambda: combine(parts, lse, 3))
    assert message == "flash_attn3: out_dtype is 3; it should be 0 (fp16), 1 (bf16) or 2 (fp32)"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert thrown(lambda dtype=dtype: combine_into(parts, lse, zeros(dtype=dtype))) == on_cpu
    for dtype in (torch.float64, torch.float8_e5m2, torch.int32, torch.bool):
        message = thrown(lambda dtype=dtype: combine_into(parts, lse, zeros(dtype=dtype)))
        name = str(dtype).removeprefix("torch.")
        assert message == f"flash_attn3: out has dtype {name}; it should be float32, float16 or bfloat16"


def what_is_left_out_has_a_default() -> None:
    """A call of few arguments is one of `fwd`; each in its place counts."""
    q, general_ = zeros(), torch.ops.flash_attn3.fwd_general
    packed, starts = zeros(4, 3, 64), torch.zeros(2, dtype=torch.int32)
    for arguments in ((q, q, q, 1.0, True), (packed, packed, packed, 1.0, True, starts, starts, 5, 5)):
        assert thrown(lambda given=arguments: general_(*given)).endswith(
            "q is on cpu, but this operator needs CUDA tensors"
        )
    assert "max_seqlen_k is -1" in thrown(
        lambda: general_(packed, packed, packed, 1.0, True, starts, starts, 5, -1)
    )


def errors_leave_nothing_behind() -> None:
    """Ten thousand exceptions from each of two threads: nothing aborts, no tensor and no memory stays."""
    q = zeros()
    status = Path("/proc/self/status")

    def resident_kib() -> int:
        return int(status.read_text().split("VmRSS:")[1].split()[0])

    def repeat() -> None:
        for _ in range(10_000):
            assert "q is on cpu" in thrown(lambda: fwd(q, q, q))

    repeat()
    before, references, uses = (
        resident_kib(),
        sys.getrefcount(q),
        q._use_count() if hasattr(q, "_use_count") else 0,
    )
    failures: list[BaseException] = []
    hook, threading.excepthook = threading.excepthook, lambda failure: failures.append(failure.exc_value)
    threads = [threading.Thread(target=repeat) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = hook
    assert not failures, failures
    assert sys.getrefcount(q) == references
    assert uses == (q._use_count() if hasattr(q, "_use_count") else 0)
    # One leaked tensor object a call would be 20,000 x 200 bytes.
    assert resident_kib() - before < 2_000


def packed_tensors_are_refused_by_name() -> None:
    qkv, operator = zeros(1, 2, 3, 4, 64), torch.ops.flash_attn3.fwd_qkvpacked
    cases: dict[str, Callable[[], object]] = {
        "q is on cpu, but this operator needs CUDA tensors": lambda: operator(qkv, 1.0, False, 0),
        "q has dtype float32; it should be float16 or bfloat16": lambda: operator(qkv.float(), 1.0, False, 0),
        "qkv has 4 dimensions; it should have 5: (batch, seqlen, 3, heads, head_dim)": lambda: operator(
            qkv[0], 1.0, False, 0
        ),
        "qkv has 5 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": lambda: operator(
            qkv, 1.0, False, 2
        ),
        "qkv has size 2 in dimension 2; it should be 3": lambda: operator(qkv[:, :, :2], 1.0, False, 0),
        "heads_q is 3; it should leave an even number of the 4 heads of qkv": lambda: operator(
            qkv[0], 1.0, False, 3
        ),
        "heads_q is 4; it should leave an even number of the 4 heads of qkv": lambda: operator(
            qkv[:, :, 0], 1.0, False, 4
        ),
        "heads_q is -1; it should be between 0 and 2147483647": lambda: operator(qkv, 1.0, False, -1),
    }
    for message, call in cases.items():
        assert thrown(call) == f"flash_attn3: {message}"
    before = sys.getrefcount(qkv)
    for _ in range(1_000):
        assert "q is on cpu" in thrown(lambda: operator(qkv, 1.0, False, 0))
    assert sys.getrefcount(qkv) == before


def a_fake_kernel_makes_it_traceable() -> None:
    @torch.library.register_fake("flash_attn3::fwd")
    def fake(
        q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, seqlen, heads, _d = q.shape
        return q.new_empty(batch, seqlen, heads, v.shape[3]), q.new_empty(
            batch, heads, seqlen, dtype=torch.float32
        )

    meta = zeros().to("meta")
    out, lse = torch.ops.flash_attn3.fwd(meta, meta, meta, 1.0, False, 0)
    assert (out.shape, lse.shape) == (SHAPE, (1, 3, 2))

    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return torch.ops.flash_attn3.fwd(q, q, q, 0.5, True, 0)[0] * 2

    exported = torch.export.export(Attention(), (zeros(),))
    assert "flash_attn3.fwd.default" in str(exported.graph)


def lengths_are_compiled_once() -> None:
    """A graph holds for every longest length, which arrives as the number that it is."""

    @torch.library.register_fake("flash_attn3::fwd_general")
    def fake(
        q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return q.new_empty(*q.shape[:2], v.shape[2]), q.new_empty(*q.shape[1::-1], dtype=torch.float32)

    packed, starts = zeros(8, 3, 64), torch.zeros(3, dtype=torch.int32)
    compiled = 0

    def count(module: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        nonlocal compiled
        compiled += 1
        return module.forward

    @torch.compile(backend=count, fullgraph=True, dynamic=True)
    def attention(longest_q: int, longest_k: int) -> object:
        return general(
            *(packed, packed, packed),
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=longest_q,
            max_seqlen_k=longest_k,
        )

    for longest in (3, 4, 100, 7, 2**29):
        assert "q is on cpu" in thrown(lambda longest=longest: attention(longest, longest + 1))
    assert "max_seqlen_q is 2147483648; it should be between" in thrown(lambda: attention(2**31, 5))
    assert compiled == 1


def every_shim_function_exists(*names: str) -> None:
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    assert [name for name in names if not hasattr(library, name)] == []


def main(name: str, library: str, *arguments: str) -> None:
    torch.ops.load_library(library)
    globals()[name](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
