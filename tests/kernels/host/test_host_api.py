"""The C ABI without a driver: version, pack, argument and layout checks."""

from __future__ import annotations

import ctypes
import math
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from kernels.build import pack as kernels_pack
from kernels.table import VARIANTS
from tests.kernels.host.host_api import (
    BAD_PACK,
    EXACT,
    FP16,
    FP32,
    HEADER,
    INVALID_ARGUMENT,
    KERNELS,
    NO_DRIVER,
    OK,
    RECORD,
    Api,
    FwdArgs,
    Kernel,
    KernelInfo,
    fwd_args,
    pack_bytes,
    tensor,
)

REPOSITORY = Path(__file__).parents[3]


def test_version(api: Api) -> None:
    assert api.version() == "0.1.0"


def test_pack_is_listed(api: Api, pack: Path) -> None:
    assert api.set_pack(pack) == (OK, "")
    assert api.kernel_count() == len(KERNELS)
    for index, kernel in enumerate(KERNELS):
        info = api.kernel_at(index)
        assert (info.name.decode(), info.op.decode(), info.mask.decode()) == (kernel.name, "fwd", kernel.mask)
        assert (info.toolkit, info.sm) == (b"12.8", 90)
        assert (info.dtype_in, info.dtype_out) == (kernel.dtype, kernel.dtype)
        assert (info.head_dim, info.head_dim_v, info.code) == (128, 128, EXACT)


@pytest.mark.parametrize("index", [-1, len(KERNELS)])
def test_kernel_index_is_checked(api: Api, pack: Path, index: int) -> None:
    assert api.set_pack(pack) == (OK, "")
    info = (ctypes.c_int32(index), ctypes.byref(KernelInfo(struct_size=ctypes.sizeof(KernelInfo))))
    expected = f"index is {index}; the pack holds 3 kernels, counted from 0"
    assert api.call("fa3_kernel_at", *info) == (INVALID_ARGUMENT, expected)


def test_pack_of_the_build_is_read(api: Api, tmp_path: Path) -> None:
    """What kernels/build/pack.py writes, pack.cpp reads."""
    path = tmp_path / "kernels.fa3pack"
    entries = [
        kernels_pack.PackEntry(variant, b"image of " + variant.name.encode(), "12.8") for variant in VARIANTS
    ]
    kernels_pack.write_pack(entries, path)
    assert api.set_pack(path) == (OK, "")
    listed = {api.kernel_at(index).name.decode() for index in range(api.kernel_count())}
    assert listed == {variant.name for variant in VARIANTS}


def test_default_pack_lies_beside_the_library(libraries: Path, tmp_path: Path) -> None:
    library = shutil.copy(libraries / "libflash_attn3.so", tmp_path)
    program = (
        "import sys; from pathlib import Path; from tests.kernels.host.host_api import Api;"
        "api = Api(Path(sys.argv[1])); count = __import__('ctypes').c_int32();"
        "print(*api.call('fa3_kernel_count', __import__('ctypes').byref(count)), count.value)"
    )

    def count() -> str:
        command = [sys.executable, "-c", program, str(library)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    pack = tmp_path / "kernels.fa3pack"
    assert count() == f"{BAD_PACK} kernel pack {pack} cannot be opened: No such file or directory 0\n"
    pack.write_bytes(pack_bytes(KERNELS))
    assert count() == f"{OK}  3\n"


def header(data: bytes, **changes: int) -> bytes:
    fields = dict(zip(("magic", "format", "count", "size", "digest"), HEADER.unpack_from(data), strict=True))
    return HEADER.pack(*(fields | changes).values()) + data[HEADER.size :]


GOOD = pack_bytes(KERNELS)
BAD_PACKS = {
    "empty": (b"", "is truncated: it has 0 bytes, less than its header"),
    "short header": (GOOD[:31], "is truncated: it has 31 bytes, less than its header"),
    "truncated": (
        GOOD[:-1],
        f"is truncated or altered: it has {len(GOOD) - 1} bytes, its header says {len(GOOD)}",
    ),
    "longer": (
        GOOD + b"x",
        f"is truncated or altered: it has {len(GOOD) + 1} bytes, its header says {len(GOOD)}",
    ),
    "other file": (b"PK\x03\x04" + GOOD[4:], "is not a kernel pack"),
    "newer format": (header(GOOD, format=4), "has format 4; this library reads format 3"),
    "too many rows": (header(GOOD, count=2**32 - 1), "is altered: 4294967295 rows do not fit in it"),
    "altered row": (GOOD[:40] + b"!" + GOOD[41:], "is altered: its table does not match its digest"),
    "altered digest": (header(GOOD, digest=1), "is altered: its table does not match its digest"),
}


@pytest.mark.parametrize("case", BAD_PACKS)
def test_bad_pack_is_refused_and_the_good_one_stays(api: Api, pack: Path, tmp_path: Path, case: str) -> None:
    assert api.set_pack(pack) == (OK, "")
    data, reason = BAD_PACKS[case]
    path = tmp_path / "bad.fa3pack"
    path.write_bytes(data)
    status, message = api.set_pack(path)
    assert status == BAD_PACK
    assert message.endswith(reason)
    assert str(path) in message
    assert api.kernel_count() == len(KERNELS)


MALFORMED_ROWS = {
    "sm": {"sm": 0},
    "code": {"code": 3},
    "dtype": {"dtype": 3},
    "dtype_out": {"dtype_out": 254},
    "head_dim": {"head_dim": 1025},
    "head_dim_v": {"head_dim_v": 1025},
    "tile_m": {"tile_m": 0},
    "threads": {"threads": 2048},
    "mask": {"mask": "diagonal"},
    "no mask": {"mask": ""},
    "blocks": {"blocks_per_sm": 0},
    "no name": {"name": ""},
    "endless name": {"name": "x" * 64},
    "empty image": {"image": b""},
}


@pytest.mark.parametrize("case", MALFORMED_ROWS)
def test_malformed_row_is_refused(api: Api, tmp_path: Path, case: str) -> None:
    """A row that its digest vouches for, but that no kernel can have."""
    path = tmp_path / "bad.fa3pack"
    path.write_bytes(pack_bytes((KERNELS[0], Kernel(**{"name": "bad", **MALFORMED_ROWS[case]}))))
    expected = f"kernel pack {path} is malformed: row 1 has a field out of range"
    assert api.set_pack(path) == (BAD_PACK, expected)


@pytest.mark.parametrize(("offset", "size"), [(2**63, 64), (64, 2**64 - 1), (len(GOOD) + 64, 1), (65, 1)])
def test_image_outside_the_file_is_refused(api: Api, tmp_path: Path, offset: int, size: int) -> None:
    row = bytearray(GOOD[HEADER.size : HEADER.size + RECORD.size])
    struct.pack_into("<QQ", row, 160, offset, size)
    path = tmp_path / "bad.fa3pack"
    path.write_bytes(
        header(GOOD[: HEADER.size], count=1, digest=zlib.crc32(row)) + row + GOOD[HEADER.size + RECORD.size :]
    )
    assert api.set_pack(path)[1].endswith("row 0 has a field out of range")


def test_pack_path_is_checked(api: Api, tmp_path: Path) -> None:
    assert api.set_pack(None) == (INVALID_ARGUMENT, "path is null; it should name a kernel pack")
    assert api.set_pack(tmp_path)[0] == BAD_PACK  # a folder


def test_packs_leave_no_descriptor_open(api: Api, pack: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        api.set_pack(pack)
        api.set_pack(pack.with_name("missing"))
    assert len(list(descriptors.iterdir())) == before


def test_missing_driver(libraries: Path, pack: Path) -> None:
    if any(Path(folder, "libcuda.so.1").exists() for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")):
        pytest.skip("this machine has a CUDA driver")
    api = Api(libraries / "libflash_attn3.so")
    assert api.set_pack(pack) == (OK, "")
    for status, message, *_ in (api.fwd(fwd_args()), api.driver(), api.device_supported(0)):
        assert status == NO_DRIVER
        assert message.startswith("the CUDA driver was not found: libcuda.so.1: ")


def changed(**changes: object) -> FwdArgs:
    return fwd_args(**changes)


def with_tensor(name: str, **changes: object) -> FwdArgs:
    args = fwd_args()
    value = getattr(args, name)
    shape = changes.get("shape", tuple(value.shape))
    data, dtype = changes.get("data", value.data), changes.get("dtype", value.dtype)
    setattr(args, name, tensor(data, shape, changes.get("stride"), dtype))
    return args


def with_batch(batch: int, **changes: object) -> FwdArgs:
    args = fwd_args(**changes)
    args.batch = batch
    return args


def paged(**changes: object) -> FwdArgs:
    pages = {"seqused_k": 0x60000, "page_table": 0x61000, "page_table_stride": 4, "max_seqlen_k": 4 * 384}
    return fwd_args(**(pages | changes))


SIZE = ctypes.sizeof(FwdArgs)
SOFTCAP_RULE = "it should be 0, or positive and of a size that softmax_scale / softcap is a finite float32"
STRIDE_RULE = "it should be a multiple of 8 elements (16 bytes), not negative and below 2^40 bytes"
BAD_CALLS = [
    (changed(struct_size=4), f"args.struct_size is 4; it should be the size of fa3_fwd_args, here {SIZE}"),
    (
        changed(struct_size=2**20),
        f"args.struct_size is 1048576; it should be the size of fa3_fwd_args, here {SIZE}",
    ),
    (changed(dtype=2), "q.dtype is 2; it should be 0 (fp16) or 1 (bf16)"),
    (changed(dtype=-1), "q.dtype is -1; it should be 0 (fp16) or 1 (bf16)"),
    (with_tensor("k", dtype=FP16), "k.dtype is 0; it should be 1, as in q"),
    (with_tensor("v", dtype=FP32), "v.dtype is 2; it should be 1, as in q"),
    (with_tensor("out", dtype=FP16), "out.dtype is 0; it should be 1, as in q"),
    (changed(causal=2), "causal is 2; it should be 0 or 1"),
    (changed(softmax_scale=math.nan), "softmax_scale is nan; it should be a finite float32"),
    (changed(softmax_scale=math.inf), "softmax_scale is inf; it should be a finite float32"),
    (changed(sm_margin=-1), "sm_margin is -1; it should not be negative"),
    (with_tensor("q", shape=(2, -1, 4, 128)), "q has seqlen -1; it should be between 0 and 2147483647"),
    (
        with_tensor("k", shape=(2, 2**31, 2, 128)),
        "k has seqlen 2147483648; it should be between 0 and 2147483647",
    ),
    (
        with_tensor("v", shape=(2, 384, 2, 2**31)),
        "v has head_dim 2147483648; it should be between 0 and 2147483647",
    ),
    (with_tensor("q", shape=(2, 256, 4, 0)), "q has head_dim 0; it should be positive"),
    (fwd_args(head_dim=100), "out has stride 100 in its heads dimension; " + STRIDE_RULE),
    (with_tensor("k", shape=(3, 384, 2, 128)), "k has batch 3; it should be 2, as in q"),
    (with_tensor("k", shape=(2, 384, 2, 64)), "k has head_dim 64; it should be 128, as in q"),
    (with_tensor("v", shape=(1, 384, 2, 128)), "v has batch 1; it should be 2, as in k"),
    (with_tensor("v", shape=(2, 383, 2, 128)), "v has seqlen 383; it should be 384, as in k"),
    (with_tensor("v", shape=(2, 384, 1, 128)), "v has heads 1; it should be 2, as in k"),
    (fwd_args(heads=3, heads_k=2), "q has 3 heads and k has 2; q's should be a multiple of k's"),
    (fwd_args(heads=2, heads_k=4), "q has 2 heads and k has 4; q's should be a multiple of k's"),
    (fwd_args(heads=2, heads_k=0), "q has 2 heads and k has 0; q's should be a multiple of k's"),
    (with_tensor("out", shape=(2, 255, 4, 128)), "out has seqlen 255; it should be 256, as in q"),
    (with_tensor("out", shape=(2, 256, 2, 128)), "out has heads 2; it should be 4, as in q"),
    (with_tensor("out", shape=(2, 256, 4, 64)), "out has head_dim 64; it should be 128, as in v"),
    (with_tensor("q", data=None), "q.data is null; it should point to device memory"),
    (with_tensor("k", data=None), "k.data is null; it should point to device memory"),
    (with_tensor("v", data=None), "v.data is null; it should point to device memory"),
    (with_tensor("out", data=None), "out.data is null; it should point to device memory"),
    (with_tensor("q", data=0x10002), "q.data is 0x10002; it should be a multiple of 16 bytes"),
    (
        with_tensor("k", stride=(384 * 2 * 130, 260, 130, 1)),
        f"k has stride 260 in its seqlen dimension; {STRIDE_RULE}",
    ),
    (
        with_tensor("v", stride=(98304, 1, 384, 768)),
        f"v has stride 1 in its seqlen dimension; {STRIDE_RULE}",
    ),
    (
        with_tensor("q", stride=(2**20, 4096, 1024, 8)),
        "q has stride 8 in its head_dim dimension; it should be 1",
    ),
    (
        with_tensor("out", stride=(0, 512, 128, 1)),
        "out has stride 0 in its batch dimension; it should have room for every element",
    ),
    (changed(lse=None), "lse is null; it should be a 4-byte aligned device address"),
    *(
        (changed(**{name: 0x50002}), f"{name} is 0x50002; it should be a 4-byte aligned device address")
        for name in ("lse", "sink", "seqused_q", "seqused_k")
    ),
    *(
        (changed(**{name: -1}), f"{name} is -1; it should not be negative")
        for name in ("attention_chunk", "max_seqlen_q", "max_seqlen_k")
    ),
    (with_batch(-1), "batch is -1; it should not be negative"),
    (with_batch(3), "batch is 3; it should be 2, as in q"),
    (with_batch(3, cu_seqlens_q=0x60000), "q has batch 2; with cu_seqlens_q it should be 1"),
    (with_batch(2, cu_seqlens_k=0x60000), "k has batch 2; with cu_seqlens_k it should be 1"),
    (
        with_batch(3, cu_seqlens_q=0x60000, q=tensor(0x10000, (1, 256, 4, 128))),
        "k has batch 2; it should be 3, as in cu_seqlens_q",
    ),
    (changed(softcap=-1.0), f"softcap is -1; {SOFTCAP_RULE}"),
    (changed(softcap=math.inf), f"softcap is inf; {SOFTCAP_RULE}"),
    (changed(softcap=1e-30, softmax_scale=1e30), f"softcap is 1e-30; {SOFTCAP_RULE}"),
    (
        paged(seqused_k=None),
        "seqused_k is missing; with a page_table it should give the length of every sequence",
    ),
    (
        paged(cu_seqlens_k=0x60000),
        "cu_seqlens_k is given; with a page_table it should be null, and seqused_k should have the lengths",
    ),
    (
        paged(page_table_stride=2**31),
        "page_table has stride 2147483648; it should be between 0 and 2147483647",
    ),
    (paged(page_table=0x60002), "page_table is 0x60002; it should be a 4-byte aligned device address"),
    (paged(k=tensor(0x20000, (9, 16, 2, 128))), "v has pages 2; it should be 9, as in k"),
    (
        paged(k=tensor(0x20000, (9, 0, 2, 128)), v=tensor(0x20000, (9, 0, 2, 128))),
        "k has page_size 0; it should be positive",
    ),
    (paged(v=tensor(0x20000, (2, 48, 2, 128))), "v has page_size 48; it should be 384, as in k"),
    (
        changed(seqused_q=0x60000, q=tensor(0x10000, (2, 2**30 + 1, 4, 128))),
        "q has a seqlen of up to 1073741825; it should be at most 1073741824",
    ),
]


@pytest.mark.parametrize(("args", "message"), BAD_CALLS, ids=[message for _, message in BAD_CALLS])
def test_bad_argument_is_named(api: Api, args: FwdArgs, message: str) -> None:
    assert api.fwd(args) == (INVALID_ARGUMENT, message)


def resized(size: int, **changes: object) -> ctypes.Array[ctypes.c_char]:
    """A call in a structure of another size: cut, or longer by zeros."""
    buffer = ctypes.create_string_buffer(max(size, SIZE))
    args = fwd_args(batch=0, struct_size=size, **changes)
    ctypes.memmove(buffer, ctypes.byref(args), min(size, SIZE))
    return buffer


def test_a_smaller_structure_of_an_older_caller_is_accepted(api: Api) -> None:
    """What it lacks is 0: here sm_margin, which would be refused."""
    without_margin = FwdArgs.sm_margin.offset
    assert api.call("fa3_fwd", resized(without_margin, sm_margin=-1)) == (OK, "")
    assert api.call("fa3_fwd", resized(SIZE, sm_margin=-1))[0] == INVALID_ARGUMENT


def test_a_larger_structure_of_a_newer_caller_is_accepted_when_the_surplus_is_zero(api: Api) -> None:
    args = resized(SIZE + 24)
    assert api.call("fa3_fwd", args) == (OK, "")
    args[SIZE + 16] = b"\x01"
    status, message = api.call("fa3_fwd", args)
    assert status == INVALID_ARGUMENT
    assert message == (
        f"args has a value at byte {SIZE + 16} of fa3_fwd_args, "
        f"which flash-attn3 0.1.0 knows up to byte {SIZE}; update flash-attn3"
    )


@pytest.mark.parametrize("size", [72, ctypes.sizeof(KernelInfo), ctypes.sizeof(KernelInfo) + 40])
def test_kernel_info_of_any_size_is_filled_as_far_as_both_sides_know_it(
    api: Api, pack: Path, size: int
) -> None:
    assert api.set_pack(pack) == (OK, "")
    buffer = ctypes.create_string_buffer(b"\xff" * 512, 512)
    struct.pack_into("<I", buffer, 0, size)
    assert api.call("fa3_kernel_at", ctypes.c_int32(0), buffer) == (OK, "")
    assert struct.unpack_from("<Ii", buffer) == (size, 90)
    assert buffer.raw[8:72].rstrip(b"\0") == KERNELS[0].name.encode()
    known = ctypes.sizeof(KernelInfo)
    assert buffer.raw[known:size] == bytes(max(size - known, 0))
    assert buffer.raw[size:] == b"\xff" * (512 - size)


def test_kernel_info_without_a_size_is_refused(api: Api, pack: Path) -> None:
    assert api.set_pack(pack) == (OK, "")
    size = ctypes.sizeof(KernelInfo)
    expected = f"info.struct_size is 0; it should be the size of fa3_kernel_info, here {size}"
    info = ctypes.byref(KernelInfo())
    assert api.call("fa3_kernel_at", ctypes.c_int32(0), info) == (INVALID_ARGUMENT, expected)


def test_null_arguments(api: Api) -> None:
    assert api.call("fa3_fwd", None) == (INVALID_ARGUMENT, "args is null; it should point to fa3_fwd_args")


@pytest.mark.parametrize("scale", [0.0, -1.5, 3e38])
def test_any_finite_scale_is_taken(api: Api, scale: float) -> None:
    assert api.fwd(fwd_args(batch=0, softmax_scale=scale, dtype=FP16)) == (OK, "")


def test_a_short_error_buffer_is_respected(api: Api) -> None:
    buffer = ctypes.create_string_buffer(b"\xff" * 16, 16)
    library = api._library
    assert library.fa3_fwd(ctypes.byref(changed(dtype=7)), buffer, ctypes.c_size_t(8)) == INVALID_ARGUMENT
    assert buffer.raw == b"q.dtype\0" + b"\xff" * 8
    assert library.fa3_fwd(ctypes.byref(changed(dtype=7)), None, ctypes.c_size_t(0)) == INVALID_ARGUMENT


def test_layout_of_empty_tensors_is_free(api: Api) -> None:
    assert api.check_layout(tensor(0, (2, 0, 4, 128), (1, 3, 5, 7))) == (OK, "")


def test_layout_names_its_argument(api: Api) -> None:
    status, message = api.check_layout(tensor(8, (2, 4, 4, 128)), "k_cache")
    assert (status, message) == (INVALID_ARGUMENT, "k_cache.data is 0x8; it should be a multiple of 16 bytes")
    assert api.check_layout(tensor(16, (2, -4, 4, 128)))[1] == "q has seqlen -4; it should not be negative"
