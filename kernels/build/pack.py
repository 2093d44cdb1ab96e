"""The kernel pack: every kernel of a wheel in one file, from which the runtime reads the ones it needs.

Layout, little endian: a 32-byte header, a 256-byte record a kernel, then the images (a cubin, or PTX with the
zero byte that ends it), each 64-byte aligned.
The C++ reader is `kernels/host/pack/pack.cpp`; the two agree by this module's structure definitions alone.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import CorruptPackError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kernels.table import Variant

MAGIC = b"FA3PACK\x01"
FORMAT = 2
DTYPES = ("fp16", "bf16", "fp32")
# An image runs on its own compute capability alone; on that and later minor ones; on that and all later ones.
CODE_EXACT, CODE_CUBIN, CODE_PTX = range(3)
# magic, format, entries, file size, checksum of the records
_HEADER = struct.Struct("<8sIIQQ")
# name, op, mask, toolkit, 20 numbers (see _numbers), offset, size, checksum of the image
_RECORD = struct.Struct("<64s16s16s16s20I3Q40x")
_ALIGNMENT = 64


@dataclass(frozen=True)
class PackEntry:
    """A compiled kernel with the toolkit that made it (`12.8`)."""

    variant: Variant
    image: bytes
    toolkit: str


@dataclass(frozen=True)
class PackRecord:
    """A kernel as a pack describes it: what the runtime needs in order to choose and launch it."""

    name: str
    op: str
    mask: str
    toolkit: str
    sm: int
    code: int
    dtype: str
    head_dim: int
    head_dim_v: int
    numbers: tuple[int, ...]
    image: bytes


def _code(variant: Variant) -> int:
    if variant.code == "ptx":
        return CODE_PTX
    return CODE_CUBIN if variant.sm.isdigit() else CODE_EXACT


def _numbers(variant: Variant) -> tuple[int, ...]:
    box_q, box_kv, box_out = variant.box_rows
    cluster = 1
    return (
        int(variant.sm.rstrip("af")),
        _code(variant),
        DTYPES.index(variant.dtype),
        variant.head_dim,
        variant.head_dim_v,
        variant.tile_m,
        variant.tile_n,
        variant.threads,
        variant.smem_bytes,
        cluster,
        int(variant.dynamic),
        box_q,
        box_kv,
        box_out,
        variant.blocks_per_sm,
        variant.min_seqlen_q,
        variant.value_slices,
        int(variant.packs_gqa),
        0,
        0,
    )


def write_pack(entries: Iterable[PackEntry], path: Path) -> None:
    """Write the pack, sorted by name: the same entries give the same bytes. Replaces `path` atomically."""
    ordered = sorted(entries, key=lambda entry: entry.variant.name)
    offset = _HEADER.size + _RECORD.size * len(ordered)
    records, body = b"", b""
    for entry in ordered:
        padding = -(offset + len(body)) % _ALIGNMENT
        body += bytes(padding)
        records += _RECORD.pack(
            entry.variant.name.encode(),
            entry.variant.op.encode(),
            entry.variant.mask.encode(),
            entry.toolkit.encode(),
            *_numbers(entry.variant),
            offset + len(body),
            len(entry.image),
            zlib.crc32(entry.image),
        )
        body += entry.image
    header = _HEADER.pack(MAGIC, FORMAT, len(ordered), offset + len(body), zlib.crc32(records))
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(header + records + body)
    temporary.replace(path)


def read_pack(path: Path) -> tuple[PackRecord, ...]:
    """Read and verify a pack.

    Raises:
        CorruptPackError: Not a pack, of another format, truncated, or altered.
    """
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        raise CorruptPackError(f"{path}: {len(data)} bytes are too few for a kernel pack")
    magic, form, count, size, table_checksum = _HEADER.unpack_from(data)
    if magic != MAGIC or form != FORMAT:
        raise CorruptPackError(f"{path}: not a kernel pack of format {FORMAT}")
    if size != len(data):
        raise CorruptPackError(f"{path}: has {len(data)} bytes, its header says {size}")
    end = _HEADER.size + count * _RECORD.size
    if end > size or zlib.crc32(data[_HEADER.size : end]) != table_checksum:
        raise CorruptPackError(f"{path}: the table of kernels was altered")
    return tuple(_read_record(data, index, path) for index in range(count))


def _read_record(data: bytes, index: int, path: Path) -> PackRecord:
    fields = _RECORD.unpack_from(data, _HEADER.size + index * _RECORD.size)
    name, op, mask, toolkit = (text.rstrip(b"\0").decode() for text in fields[:4])
    numbers, (offset, size, checksum) = fields[4:24], fields[24:]
    image = data[offset : offset + size]
    if len(image) != size or zlib.crc32(image) != checksum:
        raise CorruptPackError(f"{path}: kernel {name} was altered")
    sm, code, dtype, head_dim, head_dim_v = numbers[:5]
    return PackRecord(name, op, mask, toolkit, sm, code, DTYPES[dtype], head_dim, head_dim_v, numbers, image)
