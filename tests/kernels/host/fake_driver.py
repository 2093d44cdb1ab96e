"""Reads the books of `fake_driver.c`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Encode(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("interleave", ctypes.c_int32),
        ("swizzle", ctypes.c_int32),
        ("promotion", ctypes.c_int32),
        ("fill", ctypes.c_int32),
        ("address", ctypes.c_uint64),
        ("extents", ctypes.c_uint64 * 5),
        ("strides", ctypes.c_uint64 * 4),
        ("box", ctypes.c_uint32 * 5),
        ("element_strides", ctypes.c_uint32 * 5),
    )


class TileQueue(ctypes.Structure):
    _fields_ = (("next", ctypes.c_uint32), ("done", ctypes.c_uint32))


class Operand(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("stride_batch", ctypes.c_int64),
        ("stride_row", ctypes.c_int64),
        ("stride_head", ctypes.c_int64),
    )


class LseOperand(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("stride_batch", ctypes.c_int64),
        ("stride_head", ctypes.c_int64),
    )


class SequenceParams(ctypes.Structure):
    _fields_ = (
        ("cu_seqlens_q", ctypes.c_uint64),
        ("cu_seqlens_k", ctypes.c_uint64),
        ("seqused_q", ctypes.c_uint64),
        ("seqused_k", ctypes.c_uint64),
        ("page_table", ctypes.c_uint64),
    )


class ScaleParams(ctypes.Structure):
    _fields_ = (
        ("scale_log2", ctypes.c_float),
        ("softcap_scale", ctypes.c_float),
    )


class MaskParams(ctypes.Structure):
    _fields_ = (
        ("window_left", ctypes.c_int32),
        ("window_right", ctypes.c_int32),
        ("attention_chunk", ctypes.c_int32),
    )


class SizeParams(ctypes.Structure):
    _fields_ = (
        ("batch", ctypes.c_int32),
        ("heads_q", ctypes.c_int32),
        ("heads_kv", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("head_dim_v", ctypes.c_int32),
        ("seqlen_q", ctypes.c_int32),
        ("seqlen_k", ctypes.c_int32),
    )


class StorageParams(ctypes.Structure):
    _fields_ = (
        ("ragged_q", ctypes.c_int32),
        ("ragged_k", ctypes.c_int32),
        ("rows_per_batch_q", ctypes.c_int32),
        ("page_size", ctypes.c_int32),
        ("page_table_stride", ctypes.c_int32),
    )


class MapSteps(ctypes.Structure):
    _fields_ = (("row", ctypes.c_int32), ("slot", ctypes.c_int32))

    def __iter__(self) -> Iterator[int]:
        return iter((self.row, self.slot))


class TileParams(ctypes.Structure):
    _fields_ = (
        ("pack_gqa", ctypes.c_int32),
        ("pack_shift", ctypes.c_int32),
        ("value_slices", ctypes.c_int32),
        ("tiles_m", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("l2_heads", ctypes.c_int32),
    )


class FwdParams(ctypes.Structure):
    """`fa3::FwdParams`, with the fields of its parts as its own; a test holds it against `params/fwd.h`."""

    _anonymous_ = ("sequences", "scale", "mask", "sizes", "storage", "tiles")
    _fields_ = (
        ("q_map", ctypes.c_uint64 * 16),
        ("k_map", ctypes.c_uint64 * 16),
        ("v_map", ctypes.c_uint64 * 16),
        ("out_map", ctypes.c_uint64 * 16),
        ("q", Operand),
        ("k", Operand),
        ("v", Operand),
        ("out", Operand),
        ("lse", LseOperand),
        ("queue", ctypes.c_uint64),
        ("sink", ctypes.c_uint64),
        ("sequences", SequenceParams),
        ("scale", ScaleParams),
        ("mask", MaskParams),
        ("sizes", SizeParams),
        ("storage", StorageParams),
        ("box_rows_kv", ctypes.c_int32),
        ("tiles", TileParams),
        ("k_steps", MapSteps),
        ("v_steps", MapSteps),
    )


class PartialParams(ctypes.Structure):
    _fields_ = (
        ("out", ctypes.c_uint64),
        ("sums", ctypes.c_uint64),
        ("arrived", ctypes.c_uint64),
        ("parts", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("slots", ctypes.c_int32),
    )


class DecodeParams(ctypes.Structure):
    """`fa3::DecodeParams`, with the fields of most parts as its own; a test holds it against the header."""

    _anonymous_ = ("sequences", "scale", "mask", "sizes", "storage", "tiles")
    _fields_ = (
        ("q", Operand),
        ("k", Operand),
        ("v", Operand),
        ("out", Operand),
        ("lse", LseOperand),
        ("sink", ctypes.c_uint64),
        ("sequences", SequenceParams),
        ("scale", ScaleParams),
        ("mask", MaskParams),
        ("sizes", SizeParams),
        ("storage", StorageParams),
        ("tiles", TileParams),
        ("partial", PartialParams),
    )


class CombineParams(ctypes.Structure):
    """`fa3::CombineParams`; a test holds it against `params/combine.h`."""

    _fields_ = (
        ("out_partial", ctypes.c_uint64),
        ("out_partial_stride_split", ctypes.c_int64),
        ("out_partial_stride_batch", ctypes.c_int64),
        ("out_partial_stride_row", ctypes.c_int64),
        ("out_partial_stride_head", ctypes.c_int64),
        ("lse_partial", ctypes.c_uint64),
        ("lse_partial_stride_split", ctypes.c_int64),
        ("lse_partial_stride_batch", ctypes.c_int64),
        ("lse_partial_stride_head", ctypes.c_int64),
        ("out", Operand),
        ("lse", LseOperand),
        ("splits", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        ("seqlen", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("head_dim_v", ctypes.c_int32),
        ("out_dtype", ctypes.c_int32),
    )


class RotaryParams(ctypes.Structure):
    _fields_ = (
        ("cosines", ctypes.c_uint64),
        ("sines", ctypes.c_uint64),
        ("stride_cosines", ctypes.c_int64),
        ("stride_sines", ctypes.c_int64),
        ("first_positions", ctypes.c_uint64),
        ("positions", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("q_advances", ctypes.c_int32),
    )


class AppendParams(ctypes.Structure):
    """`fa3::AppendParams`; a test holds it against `params/append.h`."""

    _fields_ = (
        ("k", Operand),
        ("v", Operand),
        ("k_cache", Operand),
        ("v_cache", Operand),
        ("q", Operand),
        ("q_out", Operand),
        ("cu_seqlens_new", ctypes.c_uint64),
        ("cu_seqlens_q", ctypes.c_uint64),
        ("cache_seqlens", ctypes.c_uint64),
        ("cache_batch_idx", ctypes.c_uint64),
        ("page_table", ctypes.c_uint64),
        ("seqlens", ctypes.c_uint64),
        ("rotary", RotaryParams),
        ("batch", ctypes.c_int32),
        ("heads_kv", ctypes.c_int32),
        ("heads_q", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("head_dim_v", ctypes.c_int32),
        ("seqlen_new", ctypes.c_int32),
        ("seqlen_q", ctypes.c_int32),
        ("rows_new", ctypes.c_int32),
        ("rows_q", ctypes.c_int32),
        ("slots", ctypes.c_int32),
        ("slot_rows", ctypes.c_int32),
        ("table_columns", ctypes.c_int32),
        ("table_stride", ctypes.c_int32),
        ("blocks_new", ctypes.c_int32),
    )


class BwdWorkspace(ctypes.Structure):
    _fields_ = (
        ("dq", ctypes.c_uint64),
        ("lse_log2", ctypes.c_uint64),
        ("minus_delta", ctypes.c_uint64),
        ("sink_partials", ctypes.c_uint64),
        ("turns", ctypes.c_uint64),
        ("tiles", ctypes.c_int32),
        ("tile_m", ctypes.c_int32),
        ("tile_n", ctypes.c_int32),
        ("columns_q", ctypes.c_int32),
        ("lane_floats", ctypes.c_int32),
    )


class BwdParams(ctypes.Structure):
    """`fa3::BwdParams`; a test holds it against `params/bwd.h`. The workspace has a field dq of its own."""

    _anonymous_ = ("sequences", "scale", "mask", "sizes", "storage")
    _fields_ = (
        ("q_map", ctypes.c_uint64 * 16),
        ("k_map", ctypes.c_uint64 * 16),
        ("v_map", ctypes.c_uint64 * 16),
        ("dout_map", ctypes.c_uint64 * 16),
        ("q", Operand),
        ("k", Operand),
        ("v", Operand),
        ("out", Operand),
        ("dout", Operand),
        ("dq", Operand),
        ("dk", Operand),
        ("dv", Operand),
        ("lse", LseOperand),
        ("dlse", LseOperand),
        ("sink", ctypes.c_uint64),
        ("dsink", ctypes.c_uint64),
        ("sequences", SequenceParams),
        ("scale", ScaleParams),
        ("mask", MaskParams),
        ("sizes", SizeParams),
        ("storage", StorageParams),
        ("workspace", BwdWorkspace),
        ("softmax_scale", ctypes.c_float),
        ("total_q", ctypes.c_int32),
        ("total_k", ctypes.c_int32),
        ("tiles_m", ctypes.c_int32),
        ("tiles_n", ctypes.c_int32),
        ("l2_heads", ctypes.c_int32),
        ("q_steps", MapSteps),
        ("k_steps", MapSteps),
        ("v_steps", MapSteps),
        ("dout_steps", MapSteps),
        ("queue", ctypes.c_uint64),
        ("tail_blocks", ctypes.c_int32),
    )


# Structures with tensor maps are aligned to 64 bytes, which ctypes cannot say.
FWD_BYTES, BWD_BYTES = (-(-ctypes.sizeof(params) // 64) * 64 for params in (FwdParams, BwdParams))


class Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("overlaps_previous", ctypes.c_uint32),
        ("stream", ctypes.c_uint64),
        ("function", ctypes.c_uint64),
        ("context", ctypes.c_uint64),
        ("params", FwdParams),
        ("padding", ctypes.c_uint8 * (BWD_BYTES - ctypes.sizeof(FwdParams))),
    )

    @property
    def combine_params(self) -> CombineParams:
        """What a combine kernel was given, where one of attention finds its `params`."""
        return CombineParams.from_buffer(self.params)

    @property
    def decode_params(self) -> DecodeParams:
        """The same of a decode kernel."""
        return DecodeParams.from_buffer(self.params)

    @property
    def append_params(self) -> AppendParams:
        """The same of an append kernel."""
        return AppendParams.from_buffer(self.params)

    @property
    def bwd_params(self) -> BwdParams:
        """The same of a kernel of the backward pass."""
        return BwdParams.from_address(ctypes.addressof(self.params))


class FakeDriver:
    """The fake that the runtime will find, too."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fake_encode.restype = ctypes.POINTER(Encode)
        self.library.fake_launch.restype = ctypes.POINTER(Launch)
        self.library.fake_kernel.restype = ctypes.c_char_p
        self.library.fake_image.restype = ctypes.POINTER(ctypes.c_uint8)
        self.library.fake_context.restype = ctypes.c_uint64

    def setup(
        self, version: int = 12080, devices: int = 2, capability: int = 90, init_result: int = 0
    ) -> None:
        self.library.fake_setup(version, devices, capability, init_result)

    def shared_bytes(self, number: int) -> None:
        """Set what a thread block can have."""
        self.library.fake_shared_bytes(number)

    def l2_bytes(self, number: int) -> None:
        """Set the size of the L2."""
        self.library.fake_l2_bytes(number)

    def fail(self, name: str, result: int = 999) -> None:
        self.library.fake_fail(name.encode(), result)

    def slow(self, name: str) -> None:
        self.library.fake_slow(name.encode())

    def calls(self, name: str) -> int:
        return self.library.fake_calls(name.encode())

    def capture(self, stream: int, on: bool) -> None:
        self.library.fake_capture(ctypes.c_uint64(stream), int(on))

    def stream_id(self, stream: int, identity: int) -> None:
        self.library.fake_stream_id(ctypes.c_uint64(stream), ctypes.c_uint64(identity))

    def set_context(self, context: int) -> None:
        self.library.fake_set_context(ctypes.c_uint64(context))

    @property
    def context(self) -> int:
        return self.library.fake_context()

    @property
    def launch_count(self) -> int:
        return self.library.fake_launch_count()

    @property
    def last_launch(self) -> Launch:
        return self.library.fake_launch(self.launch_count - 1).contents

    @property
    def launches(self) -> list[Launch]:
        return [self.library.fake_launch(i).contents for i in range(self.launch_count)]

    @property
    def encodes(self) -> list[Encode]:
        return [self.library.fake_encode(i).contents for i in range(self.library.fake_encode_count())]

    def kernel(self, launch: Launch) -> str:
        return self.library.fake_kernel(ctypes.c_uint64(launch.function)).decode()

    def encodes_of(self, launch: Launch) -> list[Encode]:
        """The maps of q, k, v and out that the launch was given."""
        params = launch.params
        maps = (params.q_map, params.k_map, params.v_map, params.out_map)
        return [self.encodes[entry[1]] for entry in maps]

    def queue_of(self, launch: Launch) -> TileQueue:
        return TileQueue.from_address(launch.params.queue)
