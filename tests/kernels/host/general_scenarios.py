"""What `test_host_driver.py` runs beside `scenarios.py`: head dimensions, masks, and ragged batches.

Every scenario has the product's own kernel table in its pack.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING

from kernels.build.pack import PackEntry, write_pack
from kernels.table import VARIANTS
from tests.kernels.host.host_api import (
    INDEX,
    INVALID_ARGUMENT,
    OK,
    UNSUPPORTED,
    Api,
    FwdArgs,
    Kernel,
    fwd_args,
    pack_bytes,
    tensor,
)
from tests.kernels.host.scenarios import launch, run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernels.host.fake_driver import Encode, FakeDriver

LAST = 2**31 - 1
RAGGED_ROWS = 2**30
LOG2_E = math.log2(math.e)
TILE_M = {variant.name: variant.tile_m for variant in VARIANTS}

SCENARIOS: dict[str, Callable[..., None]] = {}


def scenario(function: Callable[..., None]) -> Callable[..., None]:
    def with_product_table(api: Api, fake: FakeDriver, pack: Path) -> None:
        path = pack.with_name("product.fa3pack")
        write_pack([PackEntry(variant, b"image\0", "12.8") for variant in VARIANTS], path)
        assert api.set_pack(path) == (OK, "")
        function(*(api, fake, pack)[: function.__code__.co_argcount])

    SCENARIOS[function.__name__] = with_product_table
    return function


def refused(api: Api, args: FwdArgs) -> str:
    status, message = api.fwd(args)
    assert status == INVALID_ARGUMENT
    return message


def address(encoded: Encode, *coordinates: int) -> int | None:
    """Where TMA finds an element, or None when it is out of bounds."""
    if any(
        not 0 <= coordinate < extent for coordinate, extent in zip(coordinates, encoded.extents, strict=True)
    ):
        return None
    steps = (2, *encoded.strides)
    return (encoded.address + sum(map(math.prod, zip(coordinates, steps, strict=True)))) % 2**64


def row_address(
    encoded: Encode, start: int, length: int, row: int, head: int, *, step: int = 1
) -> int | None:
    """Where a kernel finds a row of a ragged operand; `step`: units of the origin from row to row."""
    return address(encoded, 0, head, RAGGED_ROWS - length + row, start + length * step, RAGGED_ROWS)


@scenario
def the_smallest_kernel_that_covers_serves(api: Api, fake: FakeDriver) -> None:
    expected = {
        "d64": [(1, 1), (8, 64), (59, 40), (64, 64)],
        "d64x512": [(64, 129), (64, 193), (1, 256), (64, 264), (59, 512)],
        "d96": [(65, 64), (64, 65), (72, 80), (96, 96)],
        "d128": [(97, 96), (64, 128), (111, 128), (128, 128)],
        "d192x128": [(129, 1), (136, 128), (192, 128)],
        "d192": [(136, 136), (160, 160), (128, 129), (192, 192)],
        "d256": [(193, 64), (65, 193), (248, 224), (256, 256)],
    }
    for name, head_dims in expected.items():
        for head_dim, head_dim_v in head_dims:
            args = fwd_args(head_dim=head_dim, head_dim_v=head_dim_v)
            for padded in (args.q, args.k, args.v, args.out):
                shape = tuple(padded.shape)
                step = -(-shape[3] // 8) * 8
                padded.stride[:] = (shape[1] * shape[2] * step, shape[2] * step, step, 1)
            done = launch(api, fake, args)
            assert fake.kernel(done) == f"fwd_sm90_bf16_{name}_full"
            assert (done.params.head_dim, done.params.head_dim_v) == (head_dim, head_dim_v)
            extents = [encoded.extents[0] for encoded in fake.encodes_of(done)]
            assert extents == [head_dim, head_dim, head_dim_v, head_dim_v]
            assert done.params.value_slices == (1 if head_dim_v <= 256 else 2)
    for head_dim, head_dim_v in ((257, 256), (65, 264), (8, 520)):
        args = fwd_args(head_dim=264, head_dim_v=520)
        args.q.shape[3] = args.k.shape[3] = head_dim
        args.v.shape[3] = args.out.shape[3] = head_dim_v
        message = (
            f"no fwd kernel for bf16, head_dim {head_dim}, head_dim of v {head_dim_v}, mask full on sm_90; "
            "those of this build for bf16 and this mask have head_dim/head_dim of v up to: "
            "128/128, 192/192, 192/128, 256/256, 64/64, 64/512, 96/96"
        )
        assert api.fwd(args) == (UNSUPPORTED, message)


@scenario
def of_equal_kernels_the_one_with_the_smaller_head_dim_serves(api: Api, fake: FakeDriver, pack: Path) -> None:
    sizes = ((128, 128), (192, 64), (64, 192))
    for order in itertools.permutations(sizes):
        kernels = tuple(Kernel(f"d{d}x{dv}", head_dim=d, head_dim_v=dv) for d, dv in order)
        pack.write_bytes(pack_bytes(kernels))
        assert api.set_pack(pack) == (OK, "")
        assert fake.kernel(launch(api, fake, fwd_args(head_dim=64))) == "d64x192"
        assert fake.kernel(launch(api, fake, fwd_args(head_dim=72, head_dim_v=72))) == "d128x128"


@scenario
def long_sequences_take_the_schedule_made_for_them(api: Api, fake: FakeDriver, pack: Path) -> None:
    kernels = (Kernel("any"), Kernel("long", min_seqlen_q=512), Kernel("longer", min_seqlen_q=4096))
    for order in itertools.permutations(kernels):
        pack.write_bytes(pack_bytes(order))
        assert api.set_pack(pack) == (OK, "")
        for seqlen_q, name in ((1, "any"), (511, "any"), (512, "long"), (4095, "long"), (4096, "longer")):
            assert fake.kernel(launch(api, fake, fwd_args(seqlen_q=seqlen_q))) == name
        ragged = fwd_args(seqlen_q=4096, seqused_q=INDEX, max_seqlen_q=4096)
        assert fake.kernel(launch(api, fake, ragged)) == "any"


@scenario
def masks_choose_kernels_and_arrive(api: Api, fake: FakeDriver) -> None:
    cases: list[tuple[dict[str, object], str, tuple[int, int, int]]] = [
        ({}, "full", (-1, -1, 0)),
        ({"causal": 1}, "causal", (-1, 0, 0)),
        ({"window_right": 0}, "causal", (-1, 0, 0)),
        ({"causal": 1, "window_right": 7}, "causal", (-1, 0, 0)),
        ({"window_left": -5, "window_right": -9}, "full", (-1, -1, 0)),
        ({"window_left": 0}, "local", (0, -1, 0)),
        ({"window_left": 100, "causal": 1}, "local", (100, 0, 0)),
        ({"window_right": 3}, "local", (-1, 3, 0)),
        ({"attention_chunk": 64}, "local", (-1, -1, 64)),
        ({"attention_chunk": 64, "causal": 1}, "local", (-1, 0, 64)),
        ({"softcap": 2.0}, "local", (-1, -1, 0)),
        ({"softcap": 2.0, "causal": 1}, "local", (-1, 0, 0)),
        # Windows that hide none of 384 keys from 256 queries; and ones that hide one.
        ({"window_left": 383, "window_right": 255}, "full", (-1, -1, 0)),
        ({"window_left": LAST, "window_right": LAST}, "full", (-1, -1, 0)),
        ({"window_left": LAST, "causal": 1}, "causal", (-1, 0, 0)),
        ({"window_left": 382, "window_right": 254}, "local", (382, 254, 0)),
        ({"attention_chunk": LAST}, "local", (-1, -1, 384)),
        ({"seqlen_q": 1, "causal": 1}, "full", (-1, -1, 0)),
        ({"seqlen_q": 1, "causal": 1, "window_left": 9}, "local", (9, -1, 0)),
    ]
    for changes, mask, numbers in cases:
        done = launch(api, fake, fwd_args(**changes))
        params = done.params
        assert fake.kernel(done) == f"fwd_sm90_bf16_d128_{mask}", changes
        assert (params.window_left, params.window_right, params.attention_chunk) == numbers, changes


@scenario
def neighbours_do_not_choose_a_sequence_s_kernel(api: Api, fake: FakeDriver) -> None:
    """In a ragged batch a window stays, for it may hide keys of another sequence."""
    cases = {
        "causal": {"seqlen_q": 1, "causal": 1},
        "local": {"window_left": LAST, "window_right": LAST},
    }
    for mask, changes in cases.items():
        for ragged in ("seqused_q", "seqused_k"):
            done = launch(api, fake, fwd_args(**changes, **{ragged: INDEX}))
            assert fake.kernel(done) == f"fwd_sm90_bf16_d128_{mask}"
    # Cut where no sequence reaches, so that the kernel's sums stay in 32 bits.
    assert (done.params.window_left, done.params.window_right) == (384, 256)
    args = packed(5, 300, window_left=LAST, window_right=LAST, attention_chunk=LAST)
    params = launch(api, fake, args).params
    assert (params.window_left, params.window_right, params.attention_chunk) == (300, 300, 300)


@scenario
def scores_are_scaled_and_capped(api: Api, fake: FakeDriver) -> None:
    def scales(softmax_scale: float, softcap: float) -> tuple[float, float]:
        args = fwd_args(softmax_scale=softmax_scale, softcap=softcap)
        params = launch(api, fake, args).params
        return params.scale_log2, params.softcap_scale

    def close(got: tuple[float, float], wanted: tuple[float, float]) -> bool:
        return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(got, wanted, strict=True))

    assert close(scales(0.125, 0.0), (0.125 * LOG2_E, 0.0))
    assert close(scales(-0.125, 0.0), (-0.125 * LOG2_E, 0.0))
    assert close(scales(0.125, 30.0), (30 * LOG2_E, 0.125 / 30))
    assert close(scales(-0.125, 30.0), (30 * LOG2_E, -0.125 / 30))
    assert scales(0.0, 30.0) == (0.0, 0.0)  # every score is 0, capped or not
    assert close(scales(1e-30, 1e30), (1e-30 * LOG2_E, 0.0))  # a quotient that float32 does not hold


@scenario
def operands_are_described(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(2, 256, 384, 4, 2, 192, 128, sink=0x60000)
    args.q.stride[:] = (256 * 2048, 2048, 192, 1)
    params = launch(api, fake, args).params
    described = {
        name: (operand.data, operand.stride_batch, operand.stride_row, operand.stride_head)
        for name in ("q", "k", "v", "out")
        for operand in [getattr(params, name)]
    }
    assert described == {
        "q": (0x10000, 256 * 2048, 2048, 192),
        "k": (0x20000, 384 * 384, 384, 192),
        "v": (0x30000, 384 * 256, 256, 128),
        "out": (0x40000, 256 * 512, 512, 128),
    }
    assert (params.lse.data, params.lse.stride_batch, params.lse.stride_head) == (0x50000, 4 * 256, 256)
    assert params.sink == 0x60000
    assert (params.ragged_q, params.ragged_k) == (0, 0)
    assert (params.rows_per_batch_q, params.page_size) == (0, 0)
    assert (*params.k_steps, *params.v_steps) == (0, 0, 0, 0)
    assert not any(
        getattr(params, name)
        for name in ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "page_table")
    )


def packed(batch: int, total: int, head_dim: int = 64, **changes: object) -> FwdArgs:
    """Queries and keys packed one after another."""
    lengths = {"max_seqlen_q": 200, "max_seqlen_k": 210}
    starts = {"cu_seqlens_q": INDEX, "cu_seqlens_k": INDEX + 0x1000}
    args = fwd_args(1, total, total, 4, 2, head_dim, **{**lengths, **starts, **changes})
    args.batch = batch
    return args


@scenario
def packed_sequences(api: Api, fake: FakeDriver) -> None:
    done = launch(api, fake, packed(5, 300, causal=1))
    params = done.params
    assert fake.kernel(done) == "fwd_sm90_bf16_d64_causal"
    assert (params.ragged_q, params.ragged_k, params.batch) == (1, 1, 5)
    assert (params.cu_seqlens_q, params.cu_seqlens_k) == (INDEX, INDEX + 0x1000)
    assert (params.seqlen_q, params.seqlen_k) == (200, 210)
    tile_m, shared = TILE_M[fake.kernel(done)], params.pack_gqa
    assert params.tiles_m == -(-200 * shared // tile_m)
    # No more than the packed rows fill, and one tile a sequence that is not full.
    assert params.count == done.grid[0] == min(5 * params.tiles_m, 300 * shared // tile_m + 5) * (4 // shared)
    assert (params.lse.stride_batch, params.lse.stride_head) == (0, 300)
    assert params.rows_per_batch_q == 0
    assert (*params.k_steps, *params.v_steps) == (1, 0, 1, 0)
    assert {params.q.stride_batch, params.k.stride_batch, params.out.stride_batch} == {0}
    q, k, _, out = fake.encodes_of(done)
    assert tuple(q.extents) == (64, 4, RAGGED_ROWS, LAST, LAST)
    assert tuple(q.strides) == (128, 512, 512, 2**34 - 512)
    assert tuple(k.strides) == (128, 256, 256, 2**34 - 256)
    for start, length, row, head in itertools.product((0, 1, 299), (1, 60, 2**30), (0, 1, 59), (0, 3)):
        at = 0x10000 + (start + row) * 512 + head * 128
        assert row_address(q, start, length, row, head) == (at if row < length else None)
        assert row_address(out, start, length, length, head) is None
    # A launch cannot know that no sequence is longer than 0: the lengths are on the device.
    params = launch(api, fake, packed(3, 300, max_seqlen_q=0)).params
    assert params.count == 3 * (4 // params.pack_gqa)
    # Nor is any longer than all rows together, whatever the bound.
    far, near = (launch(api, fake, packed(3, 300, max_seqlen_q=n)).params for n in (2**31 - 1, 300))
    assert (far.count, far.tiles_m, far.seqlen_q) == (near.count, near.tiles_m, 300)


@scenario
def only_one_side_packed(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(1, 300, 384, 4, 2, 64, cu_seqlens_q=INDEX, max_seqlen_q=100)
    args.batch = 3
    args.k = args.v = tensor(0x20000, (3, 384, 2, 64))
    done = launch(api, fake, args)
    assert (done.params.ragged_q, done.params.ragged_k, done.params.seqlen_k) == (1, 0, 384)
    assert tuple(fake.encodes_of(done)[1].extents) == (64, 2, 384, 1, 3)
    args = fwd_args(3, 300, 384, 4, 2, 64, cu_seqlens_k=INDEX, max_seqlen_k=128)
    args.k = args.v = tensor(0x20000, (1, 384, 2, 64))
    done = launch(api, fake, args)
    assert (done.params.ragged_q, done.params.ragged_k, done.params.seqlen_k) == (0, 1, 128)
    assert done.params.lse.stride_batch == 4 * 300


@scenario
def sequences_that_do_not_fill_their_rows(api: Api, fake: FakeDriver) -> None:
    args = fwd_args(3, 50, 70, 4, 2, 64, seqused_q=INDEX, seqused_k=INDEX + 64)
    args.k.stride[:] = args.v.stride[:] = (5 * 70 * 256, 256, 64, 1)  # a slice of five batches in one
    done = launch(api, fake, args)
    params = done.params
    assert (params.seqused_q, params.seqused_k) == (INDEX, INDEX + 64)
    assert params.rows_per_batch_q == 50
    assert (*params.k_steps, *params.v_steps) == (1, 350, 1, 350)
    assert (params.seqlen_q, params.seqlen_k, params.lse.stride_batch) == (50, 70, 200)
    k = fake.encodes_of(done)[1]
    assert row_address(k, 2 * 350, 33, 32, 1) == 0x20000 + 2 * (2 * 5 * 70 * 256 + 32 * 256 + 64)
    assert row_address(k, 2 * 350, 33, 33, 1) is None


@scenario
def rows_and_slots_of_one(api: Api, fake: FakeDriver) -> None:
    """The strides of single extents say nothing: slots of one row are stepped by their own stride."""
    args = fwd_args(3, 1, 1, 4, 2, 64, seqused_q=INDEX, seqused_k=INDEX)
    for operand in (args.q, args.k, args.v, args.out):
        operand.stride[:] = (4096, 3, 64, 1)
    done = launch(api, fake, args)
    assert done.params.rows_per_batch_q == 1
    assert (*done.params.k_steps, *done.params.v_steps) == (1, 1, 1, 1)
    assert row_address(fake.encodes_of(done)[1], 2, 1, 0, 1) == 0x20000 + 2 * (2 * 4096 + 64)
    args = fwd_args(1, 1, 1, 4, 2, 64, seqused_q=INDEX, seqused_k=INDEX)
    args.q.stride[:] = args.out.stride[:] = (5, 3, 64, 1)
    done = launch(api, fake, args)
    assert done.params.rows_per_batch_q == 0
    assert row_address(fake.encodes_of(done)[0], 0, 1, 0, 3) == 0x10000 + 2 * 3 * 64


def paged(page_size: int, columns: int = 8, pages: int = 40, **changes: object) -> FwdArgs:
    args = fwd_args(
        *(3, 50, 1, 4, 2, 128),
        **{
            "seqused_k": INDEX,
            "page_table": INDEX + 0x1000,
            "page_table_stride": columns + 2,
            "max_seqlen_k": columns * page_size,
            **changes,
        },
    )
    args.k = tensor(0x20000, (pages, page_size, 2, 128))
    args.v = tensor(0x30000, (pages, page_size, 2, 128))
    return args


@scenario
def pages(api: Api, fake: FakeDriver) -> None:
    boxes = {1: 1, 7: 1, 16: 16, 48: 16, 64: 64, 96: 32, 128: 128, 256: 128, 384: 128}
    for page_size, box in boxes.items():
        done = launch(api, fake, paged(page_size))
        params = done.params
        assert (params.ragged_q, params.ragged_k) == (0, 1)
        assert (params.page_size, params.page_table, params.page_table_stride) == (
            *(page_size, INDEX + 0x1000),
            10,
        )
        assert (params.seqlen_k, params.box_rows_kv) == (8 * page_size, box)
        assert (*params.k_steps, *params.v_steps) == (1, page_size, 1, page_size)
        assert params.k.stride_batch == page_size * 256
        _, k, v, _ = fake.encodes_of(done)
        assert (k.box[2], v.box[2]) == (box, box)
        last = page_size - 1
        assert (
            row_address(v, 39 * page_size, page_size, last, 1)
            == 0x30000 + (39 * page_size + last) * 512 + 256
        )
        assert row_address(k, 39 * page_size, last, last, 0) is None
    assert launch(api, fake, fwd_args()).params.box_rows_kv == 128


@scenario
def pages_of_other_layouts(api: Api, fake: FakeDriver) -> None:
    args = paged(16)
    for operand in (args.k, args.v):  # heads outside of rows; K and V of a page together
        operand.stride[:] = (2 * 2 * 16 * 128, 128, 16 * 128, 1)
    done = launch(api, fake, args)
    assert (*done.params.k_steps, *done.params.v_steps) == (1, 64, 1, 64)
    assert row_address(fake.encodes_of(done)[1], 5 * 64, 16, 3, 1) == 0x20000 + 2 * (
        5 * 8192 + 3 * 128 + 16 * 128
    )


@scenario
def pages_at_any_distance(api: Api, fake: FakeDriver) -> None:
    """Pages of K and of V are slices of larger ones: no whole number of rows apart, and not equally far."""
    args = paged(16)
    args.k.stride[:] = (16 * 256 + 128, 256, 128, 1)
    args.v.stride[:] = (3 * 16 * 256 + 8, 256, 128, 1)
    done = launch(api, fake, args)
    assert (*done.params.k_steps, *done.params.v_steps) == (2, 33, 32, 3 * 16 * 32 + 1)
    _, k, v, _ = fake.encodes_of(done)
    assert (k.strides[2], v.strides[2]) == (256, 16)
    for page, length, row in itertools.product((0, 5, 39), (1, 16), (0, 15)):
        at_k = 0x20000 + 2 * (page * (16 * 256 + 128) + row * 256 + 128)
        at_v = 0x30000 + 2 * (page * (3 * 16 * 256 + 8) + row * 256 + 128)
        assert row_address(k, page * 33, length, row, 1, step=2) == (at_k if row < length else None)
        assert row_address(v, page * 1537, length, row, 1, step=32) == (at_v if row < length else None)
    args = fwd_args(3, 50, 70, 4, 2, 64, seqused_q=INDEX, seqused_k=INDEX)
    args.v.stride[:] = (64, 3 * 64, 70 * 192, 1)  # (seqlen, batch, heads, head_dim), transposed
    done = launch(api, fake, args)
    assert (*done.params.k_steps, *done.params.v_steps) == (1, 70, 3, 1)


@scenario
def pages_that_hold_nothing(api: Api, fake: FakeDriver) -> None:
    args = paged(16, columns=0, pages=0)
    args.k.data = args.v.data = None
    args.k.stride[:] = args.v.stride[:] = (3, 5, 7, 9)
    done = launch(api, fake, args)
    assert (done.params.seqlen_k, *done.params.k_steps) == (0, 0, 0)
    for encoded in fake.encodes_of(done)[1:3]:
        assert encoded.address == 0x40000
        assert row_address(encoded, 0, 0, 0, 0) is None


@scenario
def batches_of_nothing_need_no_launch(api: Api, fake: FakeDriver) -> None:
    assert api.fwd(packed(0, 300)) == (OK, "")
    args = packed(3, 0)
    args.q.data = args.k.data = args.v.data = args.out.data = args.lse = None
    assert api.fwd(args) == (OK, "")
    assert not fake.launches


@scenario
def ragged_layouts_that_no_map_describes(api: Api) -> None:
    ragged = {"seqused_q": INDEX, "seqused_k": INDEX}
    args = fwd_args(3, 50, 70, 4, 2, 64, **ragged)
    args.q.stride[:] = (50 * 256 + 8, 256, 64, 1)
    assert refused(api, args) == (
        "q has stride 12808 in its batch dimension; "
        "it should be a multiple of 256, the stride of its seqlen dimension"
    )
    args = fwd_args(3, 50, 70, 4, 2, 64, **ragged)
    args.out.stride[:] = (64, 3 * 64, 50 * 192, 1)  # (seqlen, batch, heads, head_dim), transposed
    assert refused(api, args).startswith(
        "out has stride 64 in its batch dimension; it should be a multiple of 192"
    )
    args = fwd_args(3, 50, 70, 4, 2, 64, **ragged)
    args.out.stride[:] = (4 * 50 * 64, 64, 50 * 64, 1)
    assert refused(api, args) == (
        "out has a batch stride of 200 times its seqlen stride; it should be 50 times, as in q"
    )
    args = packed(2, 300)
    args.q.stride[:] = (0, 2**33, 64, 1)
    assert (
        refused(api, args) == "q has stride 8589934592 in its seqlen dimension; it should be below 2^34 bytes"
    )
    args = paged(16)
    args.k.stride[:] = args.v.stride[:] = (2**34, 256, 128, 1)
    assert refused(api, args) == (
        "k spans more than 2147483646 times 256 elements, "
        "the common step of its pages and page_size dimensions"
    )
    args.k.stride[:] = args.v.stride[:] = (2**30 + 8, 256, 128, 1)
    assert refused(api, args).startswith("k spans more than 2147483646 times 8 elements")
    args = paged(2**20, columns=2**10 + 1)
    assert refused(api, args) == "k has a seqlen of up to 1074790400; it should be at most 1073741824"
    assert api.fwd(paged(2**20, columns=2**10)) == (OK, "")


if __name__ == "__main__":
    run_scenario(SCENARIOS[sys.argv[1]], *sys.argv[2:])
