"""The backward pass in the C ABI of the runtime as ctypes sees it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from tests.kernels.host.host_api import (
    OK,
    PORTABLE,
    Api,
    Kernel,
    KernelInfo,
    Mask,
    Scale,
    Sequences,
    Tensor,
    replace,
    tensor,
)

PREPARE, MAIN, QUERIES, FINISH = range(4)


class BwdArgs(ctypes.Structure):
    """`fa3_bwd_args`, with the fields of its parts as its own."""

    _anonymous_ = ("sequences", "mask", "scale")
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("device", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("q", Tensor),
        ("k", Tensor),
        ("v", Tensor),
        ("out", Tensor),
        ("dout", Tensor),
        ("dq", Tensor),
        ("dk", Tensor),
        ("dv", Tensor),
        ("lse", ctypes.c_void_p),
        ("dlse", ctypes.c_void_p),
        ("sink", ctypes.c_void_p),
        ("dsink", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
        ("sequences", Sequences),
        ("mask", Mask),
        ("scale", Scale),
        ("deterministic", ctypes.c_int32),
        ("sm_margin", ctypes.c_int32),
    )


@dataclass(frozen=True)
class BwdKernel(Kernel):
    """A kernel of one launch of the backward pass."""

    mask: str = "any"
    tile_m: int = 64
    tile_n: int = 128
    dynamic: int = 0
    op: str = "bwd"
    launch: int = MAIN
    tensor_maps: int = 0
    lane_floats: int = 1

    def tail(self) -> tuple[int, ...]:
        return self.launch, self.dynamic, self.tensor_maps, self.lane_floats


PERSISTENT = BwdKernel("bwd_sm90_bf16_d128", dynamic=1, tensor_maps=1, lane_floats=4)
BLOCKS = BwdKernel("bwd_portable_sm80_bf16_d128", sm=80, code=PORTABLE, tile_n=64, blocks_per_sm=2)
WIDE = BwdKernel(
    "bwd_keys_sm90_bf16_d256",
    head_dim=256,
    head_dim_v=256,
    tile_n=64,
    dynamic=1,
    tensor_maps=1,
    lane_floats=0,
)
WIDE_QUERIES = replace(WIDE, name="bwd_queries_sm90_bf16_d256", tile_m=128, launch=QUERIES)
ENDS = tuple(
    BwdKernel(
        f"bwd_{name}_sm{sm}_bf16",
        sm=sm,
        code=PORTABLE,
        head_dim=0,
        head_dim_v=0,
        tile_m=1,
        tile_n=0,
        threads=256,
        smem_bytes=0,
        launch=launch,
    )
    for sm in (80, 90)
    for name, launch in (("prepare", PREPARE), ("finish", FINISH))
)
"""Those of the first and the last launch, for each SM."""


def bwd_args(
    shape: tuple[int, int, int, int, int] = (2, 256, 384, 4, 2), head_dim: int = 128, **changes: object
) -> BwdArgs:
    """A valid call on made-up addresses, with `changes` applied to its fields.

    `shape`: batch, seqlen_q, seqlen_k, heads, heads_k.
    """
    batch, seqlen_q, seqlen_k, heads, heads_k = shape
    queries, keys = (batch, seqlen_q, heads, head_dim), (batch, seqlen_k, heads_k, head_dim)
    shapes = {"q": queries, "k": keys, "v": keys, "out": queries, "dout": queries}
    shapes |= {"dq": queries, "dk": keys, "dv": keys}
    args = BwdArgs(
        struct_size=ctypes.sizeof(BwdArgs),
        softmax_scale=0.125,
        lse=0x150000,
        window_left=-1,
        window_right=-1,
        batch=batch,
        workspace=0x800000,
        workspace_size=2**40,
        **{name: tensor(0x10000 * place, each) for place, (name, each) in enumerate(shapes.items(), 1)},
    )
    for name, value in changes.items():
        setattr(args, name, value)
    return args


def bwd(api: Api, args: BwdArgs) -> tuple[int, str]:
    return api.call("fa3_bwd", ctypes.byref(args))


def workspace_size(api: Api, args: BwdArgs) -> int:
    size = ctypes.c_size_t()
    status, message = api.call("fa3_bwd_workspace", ctypes.byref(args), ctypes.byref(size))
    assert status == OK, message
    return size.value


def bwd_kernel(api: Api, args: BwdArgs, launch: int) -> tuple[int, str, str]:
    """Status, message, and the name of the kernel of a launch."""
    info = KernelInfo(struct_size=ctypes.sizeof(KernelInfo))
    status, message = api.call(
        "fa3_bwd_kernel", ctypes.byref(args), ctypes.c_uint32(launch), ctypes.byref(info)
    )
    return status, message, info.name.decode()
