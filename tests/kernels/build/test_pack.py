from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from kernels.build.pack import PackEntry, read_pack, write_pack
from kernels.errors import CorruptPackError, PackLimitError
from kernels.table import VARIANTS, select
from kernels.table.variant import Tail

if TYPE_CHECKING:
    from pathlib import Path

HEADER_BYTES, RECORD_BYTES = 32, 256
IMAGES = (b"one", b"the second image", b"PTX\0")
NAMES = ("fwd_portable_sm80_bf16_d64x512", "fwd_sm90_fp16_d64_full", "combine_ptx80")


RECORD = struct.Struct("<64s16s16s16s12I3Q18I")


def entries() -> list[PackEntry]:
    variants = [select([name])[0] for name in NAMES]
    return [PackEntry(variant, image, "12.8") for variant, image in zip(variants, IMAGES, strict=True)]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.fa3pack"
    write_pack(entries(), path)
    return path


def rewritten(pack: Path, index: int, field: int, value: int) -> None:
    """Give a number of a record another value, and the header the checksum that goes with it."""
    data = bytearray(pack.read_bytes())
    start = HEADER_BYTES + index * RECORD_BYTES
    fields = [*RECORD.unpack_from(data, start)]
    fields[field] = value
    RECORD.pack_into(data, start, *fields)
    table = data[HEADER_BYTES : HEADER_BYTES + len(NAMES) * RECORD_BYTES]
    struct.pack_into("<Q", data, 24, zlib.crc32(table))
    pack.write_bytes(data)


def test_what_is_written_is_read(pack: Path):
    records = read_pack(pack)
    assert [record.name for record in records] == sorted(NAMES)
    by_name = {record.name: record for record in records}
    same = (
        *("op", "mask", "dtype_in", "dtype_out", "head_dim", "head_dim_v", "tile_m", "tile_n", "threads"),
        *("smem_bytes", "blocks_per_sm"),
    )
    for name, image in zip(NAMES, IMAGES, strict=True):
        (variant,) = select([name])
        record = by_name[name]
        assert (record.image, record.toolkit) == (image, "12.8")
        assert record.tail == variant.tail.words()
        for field in same:
            assert getattr(record, field) == getattr(variant, field)


def test_the_numbers_have_their_places(pack: Path):
    # sm, code, dtype_in, dtype_out, head_dim, head_dim_v, tile_m, tile_n, threads, smem_bytes, blocks_per_sm,
    # tail_words; then offset, size and checksum of the image; then 18 words of tail.
    data = pack.read_bytes()
    assert RECORD.size == RECORD_BYTES
    stored = {
        fields[0].rstrip(b"\0").decode(): fields[4:]
        for fields in (RECORD.unpack_from(data, HEADER_BYTES + i * RECORD_BYTES) for i in range(len(NAMES)))
    }
    portable, hopper, ptx = (stored[name] for name in NAMES)
    (variant,) = select([NAMES[0]])
    assert portable[:4] == (80, 1, 1, 1)
    assert portable[4:12] == (
        *(64, 512, variant.tile_m, variant.tile_n, variant.threads, variant.smem_bytes),
        *(variant.blocks_per_sm, 7),
    )
    # dynamic, boxes of q, kv and out, min_seqlen_q, value_slices, packs_gqa
    assert portable[15:] == (0, 0, 0, 0, 0, 2, 1, *(0,) * 11)
    assert hopper[:4] == (90, 0, 0, 0)
    (variant,) = select([NAMES[1]])
    assert hopper[15:22] == (1, variant.tile_m, variant.tile_n, 16, 0, 1, 1)
    assert ptx[:4] == (80, 2, 2, 255)
    assert ptx[11] == 0
    assert ptx[15:] == (0,) * 18


def test_images_are_aligned_and_the_file_is_as_long_as_it_says(pack: Path):
    data = pack.read_bytes()
    magic, form, count, size, checksum = struct.unpack_from("<8sIIQQ", data)
    assert (magic, form, count, size) == (b"FA3PACK\x01", 3, len(NAMES), len(data))
    table = data[HEADER_BYTES : HEADER_BYTES + count * RECORD_BYTES]
    assert checksum == zlib.crc32(table)
    for index in range(count):
        offset, length, of_image = struct.unpack_from("<3Q", table, index * RECORD_BYTES + 64 + 48 + 48)
        assert offset % 64 == 0
        assert zlib.crc32(data[offset : offset + length]) == of_image


def test_the_order_of_entries_does_not_change_a_byte(pack: Path, tmp_path: Path):
    write_pack(reversed(entries()), tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == pack.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.fa3pack", "other"]


def test_every_variant_of_the_table_fits(tmp_path: Path):
    path = tmp_path / "pack"
    write_pack([PackEntry(variant, variant.name.encode(), "13.0") for variant in VARIANTS], path)
    records = read_pack(path)
    assert {record.name for record in records} == {variant.name for variant in VARIANTS}
    assert all(record.image == record.name.encode() for record in records)


def test_a_pack_of_nothing(tmp_path: Path):
    path = tmp_path / "pack"
    write_pack([], path)
    assert path.stat().st_size == HEADER_BYTES
    assert read_pack(path) == ()


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "not a kernel pack of format 3"),
        (8, "not a kernel pack of format 3"),
        (16, "its header says"),
        (HEADER_BYTES + 3, "the table of kernels was altered"),
        (HEADER_BYTES + RECORD_BYTES - 1, "the table of kernels was altered"),
        (-1, r"kernel \w+ was altered"),
    ],
)
def test_a_byte_that_was_altered_is_noticed(pack: Path, at: int, message: str):
    data = bytearray(pack.read_bytes())
    data[at] ^= 1
    pack.write_bytes(data)
    with pytest.raises(CorruptPackError, match=message):
        read_pack(pack)


@pytest.mark.parametrize(("size", "message"), [(10, "10 bytes are too few"), (-1, "its header says")])
def test_a_pack_that_was_cut_is_noticed(pack: Path, size: int, message: str):
    pack.write_bytes(pack.read_bytes()[:size])
    with pytest.raises(CorruptPackError, match=message):
        read_pack(pack)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (5, 3, "code is 3, expected at most 2"),
        (6, 9, r"dtype number: got 9, expected one of 0 \(fp16\)"),
        (7, 9, r"dtype number: got 9, expected one of 0 \(fp16\)"),
        (15, 19, "tail_words is 19, expected at most 18, and zeros behind them"),
        (19 + 7, 1, "tail_words is 7, expected at most 18, and zeros behind them"),
    ],
)
def test_a_field_out_of_range_is_noticed(pack: Path, field: int, value: int, message: str):
    index = sorted(NAMES).index(NAMES[0])
    rewritten(pack, index, field, value)
    with pytest.raises(CorruptPackError, match=f"kernel {NAMES[0]}: {message}"):
        read_pack(pack)


@dataclass(frozen=True)
class LongTail(Tail):
    values: tuple[int, ...]

    def words(self) -> tuple[int, ...]:
        return self.values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "n" * 64}, "name is 'n+', expected at most 63 bytes"),
        ({"op": "o" * 16}, "op is 'o+', expected at most 15 bytes"),
        ({"mask": "m" * 16}, "mask is 'm+', expected at most 15 bytes"),
        ({"smem_bytes": -1}, "smem_bytes is -1, expected 0 to"),
        ({"tail": LongTail((1 << 32,))}, "a word of the tail is 4294967296, expected 0 to"),
        ({"tail": LongTail((0,) * 19)}, "tail has 19 words, expected at most 18"),
    ],
)
def test_a_variant_that_a_record_cannot_hold_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
):
    variant = replace(select([NAMES[2]])[0], **changes)
    with pytest.raises(PackLimitError, match=message):
        write_pack([PackEntry(variant, b"image", "12.8")], tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_the_longest_fields_that_a_record_can_hold_are_read_back(tmp_path: Path):
    words = tuple(range(1, 19))
    variant = replace(select([NAMES[2]])[0], name="n" * 63, op="o" * 15, mask="m" * 15, tail=LongTail(words))
    write_pack([PackEntry(variant, b"image", "t" * 15)], tmp_path / "pack")
    (record,) = read_pack(tmp_path / "pack")
    assert (record.name, record.op, record.mask, record.toolkit) == ("n" * 63, "o" * 15, "m" * 15, "t" * 15)
    assert record.tail == words
