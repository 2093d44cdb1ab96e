"""What `test_host_driver.py` runs beside `scenarios.py`: appending to a cache."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from tests.kernels.host.append_api import APPEND, AppendArgs, append, append_args, append_kernel, rotary
from tests.kernels.host.host_api import (
    FP16,
    FP32,
    INDEX,
    INVALID_ARGUMENT,
    KERNELS,
    OK,
    UNSUPPORTED,
    Api,
    pack_bytes,
    tensor,
)
from tests.kernels.host.scenarios import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import FakeDriver, Operand

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_append(api: Api, fake: FakeDriver, pack: Path) -> None:
        pack.write_bytes(pack_bytes((*KERNELS, APPEND)))
        fake.setup(capability=86)
        assert api.set_pack(pack) == (OK, "")
        function(*(api, fake, pack)[: function.__code__.co_argcount])

    SCENARIOS[function.__name__] = with_append
    return function


def fields(operand: Operand) -> tuple[int, int, int, int]:
    return operand.data, operand.stride_batch, operand.stride_row, operand.stride_head


@scenario
def a_launch_carries_the_call(api: Api, fake: FakeDriver) -> None:
    args = append_args(
        3,
        5,
        head_dim=64,
        stream=9,
        device=1,
        k_cache=tensor(0x10000, (7, 100, 2, 64), (90_000, 900, 70, 1)),
        v_cache=tensor(0x20000, (7, 100, 2, 32), (80_000, 800, 40, 1)),
        v=tensor(0x40000, (3, 5, 2, 32)),
        q=tensor(0x50000, (3, 2, 6, 64)),
        q_out=tensor(0x60000, (3, 2, 6, 64)),
        cache_batch_idx=INDEX + 0x200,
        rotary=rotary(q_advances=1, first_positions=INDEX + 0x300),
    )
    assert append(api, args) == (OK, "")
    done = fake.last_launch
    assert fake.kernel(done) == APPEND.name
    assert append_kernel(api, args) == (OK, "", APPEND.name)
    assert tuple(done.grid) == (4 + 2, 1, 1)  # 15 new rows and 6 of q, 4 a block
    assert (tuple(done.block), done.shared_bytes, done.stream) == ((256, 1, 1), 0, 9)
    params = done.append_params
    assert fields(params.k_cache) == (0x10000, 90_000, 900, 70)
    assert fields(params.v_cache) == (0x20000, 80_000, 800, 40)
    assert fields(params.k) == (0x30000, 640, 128, 64)
    assert fields(params.v) == (0x40000, 320, 64, 32)
    assert fields(params.q) == (0x50000, 768, 384, 64)
    assert fields(params.q_out) == (0x60000, 768, 384, 64)
    assert (params.seqlens, params.cache_seqlens, params.cache_batch_idx) == (
        INDEX,
        INDEX + 0x100,
        INDEX + 0x200,
    )
    assert (params.page_table, params.cu_seqlens_new, params.cu_seqlens_q) == (0, 0, 0)
    assert (params.batch, params.heads_kv, params.heads_q) == (3, 2, 6)
    assert (params.head_dim, params.head_dim_v) == (64, 32)
    assert (params.seqlen_new, params.rows_new, params.seqlen_q, params.rows_q) == (5, 15, 2, 6)
    assert (params.slots, params.slot_rows, params.blocks_new) == (7, 100, 4)
    tables = params.rotary
    assert (tables.cosines, tables.sines, tables.first_positions) == (0x80000, 0x90000, INDEX + 0x300)
    assert (tables.stride_cosines, tables.stride_sines) == (16, 24)
    assert (tables.positions, tables.columns, tables.interleaved, tables.q_advances) == (50, 32, 1, 1)


@scenario
def packed_rows_go_to_pages(api: Api, fake: FakeDriver) -> None:
    args = append_args(
        2,
        k_cache=tensor(0x10000, (30, 16, 2, 64)),
        v_cache=tensor(0x20000, (30, 16, 2, 64)),
        k=tensor(0x30000, (1, 9, 2, 64)),
        v=tensor(0x40000, (1, 9, 2, 64)),
        cu_seqlens_new=INDEX + 0x200,
        page_table=INDEX + 0x300,
        page_table_stride=12,
        page_table_columns=10,
    )
    assert append(api, args) == (OK, "")
    params = fake.last_launch.append_params
    assert tuple(fake.last_launch.grid) == (3, 1, 1)
    assert (params.k.stride_batch, params.v.stride_batch) == (0, 0)
    assert params.k_cache.stride_batch == 16 * 2 * 64
    assert (params.cu_seqlens_new, params.page_table) == (INDEX + 0x200, INDEX + 0x300)
    assert (params.table_columns, params.table_stride) == (10, 12)
    assert (params.slots, params.slot_rows, params.rows_new, params.rows_q) == (30, 16, 9, 0)


@scenario
def lengths_are_written_where_nothing_is_new(api: Api, fake: FakeDriver) -> None:
    assert append(api, append_args(2, 0)) == (OK, "")
    assert tuple(fake.last_launch.grid) == (1, 1, 1)
    assert (fake.last_launch.append_params.rows_new, fake.last_launch.append_params.blocks_new) == (0, 1)


@scenario
def no_sequence_needs_no_driver(api: Api, fake: FakeDriver) -> None:
    assert append(api, append_args(0)) == (OK, "")
    assert append_kernel(api, append_args(0)) == (OK, "", "")
    assert fake.calls("cuInit") == 0


@scenario
def any_stride_and_head_dim_is_served(api: Api) -> None:
    odd = (7_001, 119, 59, 1)
    tensors = {
        name: tensor(address, (2, rows, 2, 59), odd)
        for name, address, rows in (
            ("k_cache", 0x10002, 58),
            ("v_cache", 0x20006, 58),
            ("k", 0x30002, 3),
            ("v", 0x40002, 3),
        )
    }
    assert append(api, append_args(**tensors, rotary=rotary(columns=58))) == (OK, "")


@scenario
def a_build_without_the_kernel_says_so(api: Api, fake: FakeDriver, pack: Path) -> None:
    fake.setup(capability=90)
    pack.write_bytes(pack_bytes(KERNELS))
    assert api.set_pack(pack) == (OK, "")
    assert append(api, append_args()) == (
        UNSUPPORTED,
        "no append kernel for sm_90; this build holds sm_90a (3 fwd)",
    )


def _pages(columns: int, **changes: object) -> dict[str, object]:
    return {
        "k_cache": tensor(0x10000, (30, 16, 2, 64)),
        "v_cache": tensor(0x20000, (30, 16, 2, 64)),
        "page_table": INDEX,
        "page_table_columns": columns,
        **changes,
    }


@scenario
def arguments_are_checked(api: Api) -> None:
    cache, new = (2, 100, 2, 64), (2, 3, 2, 64)
    queries = {"q": tensor(0x50000, (2, 3, 4, 64)), "q_out": tensor(0x60000, (2, 3, 4, 64))}
    size = ctypes.sizeof(AppendArgs)
    cases: dict[str, dict[str, object]] = {
        f"args.struct_size is 4; it should be the size of fa3_append_args, here {size}": {"struct_size": 4},
        "batch is -1; it should not be negative": {"batch": -1},
        "k_cache.dtype is 2; it should be 0 (fp16) or 1 (bf16)": {
            "k_cache": tensor(0x10000, cache, dtype=FP32)
        },
        "v_cache.dtype is 0; it should be 1, as in k_cache": {"v_cache": tensor(0x20000, cache, dtype=FP16)},
        "k.dtype is 0; it should be 1, as in k_cache": {"k": tensor(0x30000, new, dtype=FP16)},
        "v_cache has seqlen 99; it should be 100, as in k_cache": {
            "v_cache": tensor(0x20000, (2, 99, 2, 64))
        },
        "k_cache has batch 3; it should be 2, as in cache_seqlens": {
            "k_cache": tensor(0x10000, (3, 100, 2, 64)),
            "v_cache": tensor(0x20000, (3, 100, 2, 64)),
        },
        "k has batch 3; it should be 2, as in cache_seqlens": {"k": tensor(0x30000, (3, 3, 2, 64))},
        "k has batch 2; it should be 1, as in packed sequences": {"cu_seqlens_new": INDEX},
        "k has heads 4; it should be 2, as in k_cache": {"k": tensor(0x30000, (2, 3, 4, 64))},
        "v has head_dim 32; it should be 64, as in v_cache": {"v": tensor(0x40000, (2, 3, 2, 32))},
        "v has seqlen 4; it should be 3, as in k": {"v": tensor(0x40000, (2, 4, 2, 64))},
        "k has 3 rows for each sequence; k_cache has room for 2 a sequence": {
            "k_cache": tensor(0x10000, (2, 2, 2, 64)),
            "v_cache": tensor(0x20000, (2, 2, 2, 64)),
        },
        "k has 201 rows; k_cache has room for 100 a sequence": {
            "k": tensor(0x30000, (1, 201, 2, 64)),
            "v": tensor(0x40000, (1, 201, 2, 64)),
            "cu_seqlens_new": INDEX,
        },
        "page_table has 2 columns, for 32 rows a sequence; k has 33 rows for each sequence": _pages(
            2, k=tensor(0x30000, (2, 33, 2, 64)), v=tensor(0x40000, (2, 33, 2, 64))
        ),
        "cache_batch_idx is given; with a page_table it should be null": _pages(2, cache_batch_idx=INDEX),
        "k_cache has page_size 0; it should be positive": _pages(
            2, k_cache=tensor(0x10000, (30, 0, 2, 64)), v_cache=tensor(0x20000, (30, 0, 2, 64))
        ),
        "page_table has stride -1; it should be between 0 and 2147483647": _pages(2, page_table_stride=-1),
        "k_cache has stride 2 in its head_dim dimension; it should be 1": {
            "k_cache": tensor(0x10000, cache, (25_600, 256, 128, 2))
        },
        "v_cache has stride 0 in its seqlen dimension; it should have room for every element": {
            "v_cache": tensor(0x20000, cache, (25_600, 0, 64, 1))
        },
        "k has stride -128 in its seqlen dimension; it should not be negative": {
            "k": tensor(0x30000, new, (384, -128, 64, 1))
        },
        "k is 0x30001; it should be a 2-byte aligned device address": {"k": tensor(0x30001, new)},
        "seqlens is null; it should be a 4-byte aligned device address": {"seqlens": None},
        "cache_seqlens is 0x70002; it should be a 4-byte aligned device address": {
            "cache_seqlens": INDEX + 2
        },
        "q is given; without rotary_cos it should be absent": queries,
        "q has head_dim 32; it should be 64, as in k_cache": {
            **queries,
            "q": tensor(0x50000, (2, 3, 4, 32)),
            "rotary": rotary(),
        },
        "q_out has seqlen 4; it should be 3, as in q": {
            **queries,
            "q_out": tensor(0x60000, (2, 4, 4, 64)),
            "rotary": rotary(),
        },
        "rotary_cos is for a rotary_dim of 66; it should be 2 to 64, the head_dim": {
            "rotary": rotary(columns=66)
        },
        "rotary_cos has 2 positions; it should have at least 3, the rows of k": {
            "rotary": rotary(positions=2)
        },
        "rotary has interleaved 2 and q_advances 0; each should be 0 or 1": {"rotary": rotary(interleaved=2)},
        "rotary_sin is null; it should be a 2-byte aligned device address": {"rotary": rotary(sines=None)},
    }
    for message, changes in cases.items():
        assert (message, *append(api, append_args(**changes))) == (message, INVALID_ARGUMENT, message)


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
