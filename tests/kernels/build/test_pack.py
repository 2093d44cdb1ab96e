from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from kernels.build.pack import PackEntry, read_pack, write_pack
from kernels.errors import CorruptPackError
from kernels.table import VARIANTS, select

if TYPE_CHECKING:
    from pathlib import Path

HEADER_BYTES, RECORD_BYTES = 32, 256
IMAGES = (b"one", b"the second image", b"PTX\0")
NAMES = ("fwd_portable_sm80_bf16_d64x512", "fwd_sm90_fp16_d64_full", "combine_ptx80")


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.fa3pack"
    rows = [select([name])[0] for name in NAMES]
    write_pack([PackEntry(row, image, "12.8") for row, image in zip(rows, IMAGES, strict=True)], path)
    return path


def test_what_is_written_is_read(pack: Path):
    records = read_pack(pack)
    assert [record.name for record in records] == sorted(NAMES)
    by_name = {record.name: record for record in records}
    for name, image in zip(NAMES, IMAGES, strict=True):
        (row,) = select([name])
        record = by_name[name]
        assert (record.image, record.toolkit, record.op, record.mask) == (image, "12.8", row.op, row.mask)
        assert (record.dtype, record.head_dim, record.head_dim_v) == (row.dtype, row.head_dim, row.head_dim_v)


def test_the_numbers_have_their_places(pack: Path):
    # sm, code, dtype, head_dim, head_dim_v, tile_m, tile_n, threads, smem_bytes, cluster, dynamic, boxes of
    # q, kv and out, blocks_per_sm, min_seqlen_q, value_slices, packs_gqa, two that are free.
    portable, hopper, ptx = ({record.name: record for record in read_pack(pack)}[name] for name in NAMES)
    (row,) = select([NAMES[0]])
    assert portable.numbers[:3] == (80, 1, 1)
    assert portable.numbers[3:] == (
        *(64, 512, row.tile_m, row.tile_n, row.threads, row.smem_bytes, 1, 0, 0, 0, 0),
        *(row.blocks_per_sm, 0, 2, 1, 0, 0),
    )
    assert hopper.numbers[:3] == (90, 0, 0)
    assert hopper.numbers[10:14] == (1, *select([NAMES[1]])[0].box_rows)
    assert ptx.numbers[:3] == (80, 2, 2)


def test_images_are_aligned_and_the_file_is_as_long_as_it_says(pack: Path):
    data = pack.read_bytes()
    magic, form, count, size, checksum = struct.unpack_from("<8sIIQQ", data)
    assert (magic, form, count, size) == (b"FA3PACK\x01", 2, len(NAMES), len(data))
    table = data[HEADER_BYTES : HEADER_BYTES + count * RECORD_BYTES]
    assert checksum == zlib.crc32(table)
    for index in range(count):
        offset, length, of_image = struct.unpack_from("<3Q", table, index * RECORD_BYTES + 64 + 48 + 80)
        assert offset % 64 == 0
        assert zlib.crc32(data[offset : offset + length]) == of_image


def test_the_order_of_entries_does_not_change_a_byte(pack: Path, tmp_path: Path):
    rows = [select([name])[0] for name in NAMES]
    entries = [PackEntry(row, image, "12.8") for row, image in zip(rows, IMAGES, strict=True)]
    write_pack(reversed(entries), tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == pack.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.fa3pack", "other"]


def test_every_row_of_the_table_fits(tmp_path: Path):
    path = tmp_path / "pack"
    write_pack([PackEntry(row, row.name.encode(), "13.0") for row in VARIANTS], path)
    records = read_pack(path)
    assert {record.name for record in records} == {row.name for row in VARIANTS}
    assert all(record.image == record.name.encode() for record in records)


def test_a_pack_of_nothing(tmp_path: Path):
    path = tmp_path / "pack"
    write_pack([], path)
    assert path.stat().st_size == HEADER_BYTES
    assert read_pack(path) == ()


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "not a kernel pack of format 2"),
        (8, "not a kernel pack of format 2"),
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
