"""The kernel pack: every kernel of a wheel in one file, from which the runtime reads the ones it needs.

Layout, little endian: a 32-byte header, a 256-byte record a kernel sorted by name, then the images (a cubin,
or PTX with its terminating zero byte), each 64-byte aligned.
The C++ reader is in `kernels/host/pack`; `_HEADER` and `_RECORD` are the format that both follow.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.build.files import write_atomically
from kernels.errors import CorruptPackError, PackLimitError, UnknownDTypeError
from kernels.table.dtypes import dtype_name, dtype_number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kernels.table import Variant

MAGIC = b"FA3PACK\x01"
FORMAT = 3
CODE_EXACT, CODE_CUBIN, CODE_PTX = range(3)
"""Where an image runs: on its compute capability alone; on later minor versions too; on all later ones."""
TAIL_WORDS = 18
# magic, format, count, file size, CRC-32 of the records
_HEADER = struct.Struct("<8sIIQQ")
_TEXT_BYTES = {"name": 64, "op": 16, "mask": 16, "toolkit": 16}
# texts; sm, code, dtype_in, dtype_out, head_dim, head_dim_v, tile_m, tile_n, threads, smem_bytes,
# blocks_per_sm, tail_words; offset, size and CRC-32 of the image; tail
_RECORD = struct.Struct(f"<64s16s16s16s12I3Q{TAIL_WORDS}I")
_ALIGNMENT = 64


@dataclass(frozen=True)
class PackEntry:
    """A compiled kernel and the name of the toolkit that compiled it (`12.8`)."""

    variant: Variant
    image: bytes
    toolkit: str


@dataclass(frozen=True)
class PackRecord:
    """A kernel as the pack describes it: what the runtime needs in order to choose and launch it.

    The fields are those of `Variant`, except that `sm` has no feature letter, `code` is `CODE_EXACT`,
    `CODE_CUBIN` or `CODE_PTX`, and `tail` is `Variant.tail.words()`.
    """

    name: str
    op: str
    mask: str
    toolkit: str
    sm: int
    code: int
    dtype_in: str
    dtype_out: str
    head_dim: int
    head_dim_v: int
    tile_m: int
    tile_n: int
    threads: int
    smem_bytes: int
    blocks_per_sm: int
    tail: tuple[int, ...]
    image: bytes


def write_pack(entries: Iterable[PackEntry], path: Path) -> None:
    """Write the pack atomically; equal entries in any order give equal bytes.

    Raises:
        PackLimitError: A text or tail is too long for its field, or a number does not fit 32 bits.
    """
    ordered = sorted(entries, key=lambda entry: entry.variant.name)
    offset = _HEADER.size + _RECORD.size * len(ordered)
    records, body = b"", b""
    for entry in ordered:
        padding = -(offset + len(body)) % _ALIGNMENT
        body += bytes(padding)
        records += _pack_record(entry, offset + len(body))
        body += entry.image
    header = _HEADER.pack(MAGIC, FORMAT, len(ordered), offset + len(body), zlib.crc32(records))
    write_atomically(path, header + records + body)


def _pack_record(entry: PackEntry, offset: int) -> bytes:
    variant = entry.variant
    texts = {"name": variant.name, "op": variant.op, "mask": variant.mask, "toolkit": entry.toolkit}
    for field, text in texts.items():
        limit = _TEXT_BYTES[field] - 1  # the last byte is zero
        if len(text.encode()) > limit:
            raise PackLimitError(
                f"variant {variant.name}: {field} is {text!r}, expected at most {limit} bytes"
            )
    tail = variant.tail.words()
    if len(tail) > TAIL_WORDS:
        raise PackLimitError(
            f"variant {variant.name}: tail has {len(tail)} words, expected at most {TAIL_WORDS}"
        )
    common = {
        "sm": int(variant.sm.rstrip("af")),
        "code": _code(variant),
        "dtype_in": dtype_number(variant.dtype_in),
        "dtype_out": dtype_number(variant.dtype_out),
        "head_dim": variant.head_dim,
        "head_dim_v": variant.head_dim_v,
        "tile_m": variant.tile_m,
        "tile_n": variant.tile_n,
        "threads": variant.threads,
        "smem_bytes": variant.smem_bytes,
        "blocks_per_sm": variant.blocks_per_sm,
        "tail_words": len(tail),
    }
    for field, number in (*common.items(), *(("a word of the tail", word) for word in tail)):
        if not 0 <= number < 1 << 32:
            raise PackLimitError(f"variant {variant.name}: {field} is {number}, expected 0 to 2**32 - 1")
    return _RECORD.pack(
        *(text.encode() for text in texts.values()),
        *common.values(),
        *(offset, len(entry.image), zlib.crc32(entry.image)),
        *tail,
        *(0,) * (TAIL_WORDS - len(tail)),
    )


def _code(variant: Variant) -> int:
    if variant.code == "ptx":
        return CODE_PTX
    return CODE_CUBIN if variant.sm.isdigit() else CODE_EXACT


def read_pack(path: Path) -> tuple[PackRecord, ...]:
    """Read and verify a pack.

    Raises:
        CorruptPackError: Not a pack, of another format, truncated, altered, or with a field out of range.
    """
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        raise CorruptPackError(f"{path}: {len(data)} bytes are too few for a kernel pack")
    magic, form, count, size, records_digest = _HEADER.unpack_from(data)
    if magic != MAGIC or form != FORMAT:
        raise CorruptPackError(f"{path}: not a kernel pack of format {FORMAT}")
    if size != len(data):
        raise CorruptPackError(f"{path}: has {len(data)} bytes, its header says {size}")
    end = _HEADER.size + count * _RECORD.size
    if end > size or zlib.crc32(data[_HEADER.size : end]) != records_digest:
        raise CorruptPackError(f"{path}: the table of kernels was altered")
    return tuple(_read_record(data, index, path) for index in range(count))


def _read_record(data: bytes, index: int, path: Path) -> PackRecord:
    fields = _RECORD.unpack_from(data, _HEADER.size + index * _RECORD.size)
    name, op, mask, toolkit = (text.rstrip(b"\0").decode() for text in fields[:4])
    sm, code, dtype_in, dtype_out, head_dim, head_dim_v = fields[4:10]
    tile_m, tile_n, threads, smem_bytes, blocks_per_sm, tail_words = fields[10:16]
    offset, size, image_digest = fields[16:19]
    tail = fields[19:]
    if code > CODE_PTX:
        raise CorruptPackError(f"{path}: kernel {name}: code is {code}, expected at most {CODE_PTX}")
    if tail_words > TAIL_WORDS or any(tail[tail_words:]):
        found = f"tail_words is {tail_words}, expected at most {TAIL_WORDS}, and zeros behind them"
        raise CorruptPackError(f"{path}: kernel {name}: {found}")
    image = data[offset : offset + size]
    if len(image) != size or zlib.crc32(image) != image_digest:
        raise CorruptPackError(f"{path}: kernel {name} was altered")
    try:
        name_in, name_out = dtype_name(dtype_in), dtype_name(dtype_out)
    except UnknownDTypeError as error:
        raise CorruptPackError(f"{path}: kernel {name}: {error}") from None
    return PackRecord(
        name=name,
        op=op,
        mask=mask,
        toolkit=toolkit,
        sm=sm,
        code=code,
        dtype_in=name_in,
        dtype_out=name_out,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        tile_m=tile_m,
        tile_n=tile_n,
        threads=threads,
        smem_bytes=smem_bytes,
        blocks_per_sm=blocks_per_sm,
        tail=tail[:tail_words],
        image=image,
    )
