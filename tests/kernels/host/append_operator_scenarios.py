"""What `test_host_torch.py` runs beside `operator_scenarios.py`: `append` and `append_rotating`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.kernels.host.append_api import APPEND
from tests.kernels.host.host_api import contiguous
from tests.kernels.host.torch_double import (
    BFLOAT16,
    CPU,
    CUDA,
    FLOAT16,
    INT32,
    Torch,
    TorchTensor,
    handle,
    run_operator,
)

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from tests.kernels.host.fake_driver import FakeDriver

    Pointer = ctypes._Pointer[TorchTensor]

CACHE, NEW = (2, 100, 2, 64), (2, 3, 2, 64)
REQUIRED = {"k_cache": CACHE, "v_cache": CACHE, "k": NEW, "v": NEW, "cache_seqlens": (2,)}
OPTIONAL = (
    *("cache_batch_idx", "page_table", "cu_seqlens_k_new", "rotary_cos", "rotary_sin", "rotary_seqlens"),
)
INDICES = {
    "cache_seqlens",
    "cache_batch_idx",
    "page_table",
    "cu_seqlens_k_new",
    "rotary_seqlens",
    "cu_seqlens_q",
}

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    SCENARIOS[function.__name__] = function
    return function


class Call:
    """A call of one of the operators: by name shapes, or functions that make tensors."""

    def __init__(self, torch: Torch, *, device: tuple[int, int] = (CUDA, 0), **given: object) -> None:
        self.torch, self.given = torch, {**REQUIRED, **given}
        self.tensors = {
            name: self._tensor(name, of, device) for name, of in self.given.items() if name != "q_advances"
        }

    def _tensor(self, name: str, of: object, device: tuple[int, int]) -> Pointer:
        if callable(of):
            return of()
        return self.torch.tensor(of, dtype=INT32 if name in INDICES else BFLOAT16, device=device)

    def address(self, name: str) -> int:
        return self.tensors[name].contents.data

    def run(self, interleaved: bool = True, key: int = CUDA) -> tuple[str | None, list[TorchTensor]]:
        stack = [handle(self.tensors[name]) for name in REQUIRED]
        stack += [self._optional(name) for name in OPTIONAL]
        stack.append(int(interleaved))
        if "q" not in self.tensors:
            return self.torch.run("append", stack, 1, key)
        stack += [
            handle(self.tensors["q"]),
            self._optional("cu_seqlens_q"),
            int(bool(self.given.get("q_advances"))),
        ]
        return self.torch.run("append_rotating", stack, 2, key)

    def _optional(self, name: str) -> int:
        return self.torch._slot(self.tensors.get(name))


@scenario
def new_rows_reach_the_kernel(torch: Torch, fake: FakeDriver) -> None:
    call = Call(
        torch,
        device=(CUDA, 1),
        cache_batch_idx=(2,),
        k_cache=(5, 100, 2, 64),
        v_cache=(5, 100, 2, 32),
        v=(2, 3, 2, 32),
    )
    addresses = {name: call.address(name) for name in call.tensors}
    thrown, (seqlens,) = call.run()
    assert thrown is None
    assert (seqlens.shape, seqlens.dtype, seqlens.device_index) == ((2,), INT32, 1)
    assert (torch.alive, torch.copies) == (1, 0)
    launch = fake.last_launch
    params = launch.append_params
    assert (fake.kernel(launch), launch.stream) == (APPEND.name, 41)
    operands = (params.k_cache, params.v_cache, params.k, params.v)
    assert [operand.data for operand in operands] == [
        addresses[name] for name in ("k_cache", "v_cache", "k", "v")
    ]
    assert (params.cache_seqlens, params.cache_batch_idx) == (
        addresses["cache_seqlens"],
        addresses["cache_batch_idx"],
    )
    assert (params.seqlens, params.batch, params.slots, params.slot_rows) == (seqlens.data, 2, 5, 100)
    assert (params.head_dim, params.head_dim_v, params.rotary.cosines, params.rows_q) == (64, 32, 0, 0)
    torch.release(seqlens)


@scenario
def queries_are_rotated_beside(torch: Torch, fake: FakeDriver) -> None:
    pages = {"k_cache": (30, 16, 2, 64), "v_cache": (30, 16, 2, 64), "page_table": (2, 10)}
    packed = {
        "k": (9, 2, 64),
        "v": (9, 2, 64),
        "cu_seqlens_k_new": (3,),
        "q": (7, 4, 64),
        "cu_seqlens_q": (3,),
    }
    tables = {"rotary_cos": (50, 16), "rotary_sin": (50, 16), "rotary_seqlens": (2,)}
    for advances in (False, True):
        call = Call(torch, **pages, **packed, **tables, q_advances=advances)
        addresses = {name: call.address(name) for name in call.tensors}
        thrown, (seqlens, rotated) = call.run(interleaved=advances)
        assert thrown is None
        assert (rotated.shape, rotated.stride, rotated.dtype) == ((7, 4, 64), contiguous(7, 4, 64), BFLOAT16)
        params = fake.last_launch.append_params
        names = ("page_table", "cu_seqlens_q")
        assert [getattr(params, name) for name in names] == [addresses[name] for name in names]
        assert params.cu_seqlens_new == addresses["cu_seqlens_k_new"]
        assert (params.q.data, params.q_out.data) == (addresses["q"], rotated.data)
        tables_seen = params.rotary
        assert (tables_seen.cosines, tables_seen.sines) == (addresses["rotary_cos"], addresses["rotary_sin"])
        assert (tables_seen.first_positions, tables_seen.stride_cosines) == (addresses["rotary_seqlens"], 16)
        assert (tables_seen.positions, tables_seen.columns) == (50, 32)
        assert (tables_seen.interleaved, tables_seen.q_advances) == (advances, advances)
        assert (params.table_columns, params.table_stride, params.rows_new, params.rows_q) == (10, 10, 9, 7)
        torch.release(seqlens)
        torch.release(rotated)


@scenario
def rows_that_are_not_contiguous_are_copied_and_caches_are_not(torch: Torch, fake: FakeDriver) -> None:
    apart = tuple(2 * step for step in contiguous(*NEW))
    call = Call(torch, k=lambda: torch.tensor(NEW, apart))
    address = call.address("k")
    thrown, (seqlens,) = call.run()
    assert (thrown, torch.copies) == (None, 1)
    params = fake.last_launch.append_params
    assert params.k.data != address
    assert (params.k.stride_row, params.k.stride_head) == (128, 64)
    torch.release(seqlens)
    cache = Call(torch, v_cache=lambda: torch.tensor(CACHE, tuple(2 * step for step in contiguous(*CACHE))))
    assert cache.run()[0] == "flash_attn3: v_cache has stride 2 in its head_dim dimension; it should be 1"
    assert torch.alive == 0


@scenario
def arguments_are_checked(torch: Torch) -> None:
    def of(dtype: int, *shape: int, device: tuple[int, int] = (CUDA, 0)) -> Callable[[], Pointer]:
        return lambda: torch.tensor(shape, dtype=dtype, device=device)

    tables = {"rotary_cos": (50, 16), "rotary_sin": (50, 16)}
    cases: dict[str, dict[str, object]] = {
        "k_cache has dtype int32; it should be float16 or bfloat16": {"k_cache": of(INT32, *CACHE)},
        "k has dtype float16; it should be bfloat16": {"k": of(FLOAT16, *NEW)},
        "rotary_sin has dtype float16; it should be bfloat16": {**tables, "rotary_sin": of(FLOAT16, 50, 16)},
        "v_cache has 3 dimensions; it should have 4: (batch, seqlen, heads, head_dim)": {
            "v_cache": CACHE[1:]
        },
        "k has 4 dimensions; it should have 3: (total, heads, head_dim)": {"cu_seqlens_k_new": (3,)},
        "cache_seqlens has dtype bfloat16; it should be int32": {"cache_seqlens": of(BFLOAT16, 2)},
        "cache_batch_idx has 3 elements; it should have 2: (batch,)": {"cache_batch_idx": (3,)},
        "page_table has batch 3; it should be 2, as in cache_seqlens": {"page_table": (3, 4)},
        "rotary_sin is missing; it should be given with the other table": {"rotary_cos": (50, 16)},
        "rotary_cos has 1 dimensions; it should have 2: (positions, rotary_dim / 2)": {
            **tables,
            "rotary_cos": (50,),
        },
        "rotary_sin has shape (50, 8); it should be (50, 16), as rotary_cos": {
            **tables,
            "rotary_sin": (50, 8),
        },
        "rotary_cos has 2 positions; it should have at least 3, the rows of k": {
            "rotary_cos": (2, 16),
            "rotary_sin": (2, 16),
        },
        "k has 3 rows for each sequence; k_cache has room for 2 a sequence": {
            "k_cache": (2, 2, 2, 64),
            "v_cache": (2, 2, 2, 64),
        },
        "page_table has 2 columns, for 2 rows a sequence; k has 3 rows for each sequence": {
            "k_cache": (9, 1, 2, 64),
            "v_cache": (9, 1, 2, 64),
            "page_table": (2, 2),
        },
        "v is on cuda:1; it should be on cuda:0, as k_cache is": {"v": of(BFLOAT16, *NEW, device=(CUDA, 1))},
    }
    for message, changes in cases.items():
        assert Call(torch, **changes).run()[0] == f"flash_attn3: {message}"
        assert torch.alive == 0
    assert Call(torch, device=(CPU, 0)).run(key=CPU)[0] == (
        "flash_attn3: k_cache is on cpu, but this operator needs CUDA tensors"
    )
    assert torch.alive == 0


if __name__ == "__main__":
    run_operator(sys.argv[1], sys.argv[2], SCENARIOS)
