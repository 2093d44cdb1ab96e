from __future__ import annotations

import io
import zipfile

from ci.wheel.make import normalised

MEMBERS = {
    "flash_attn3-1.dist-info/RECORD": b"record",
    "flash_attn3-1.dist-info/METADATA": b"metadata",
    "flash_attn3/lib/libx.so": bytes(1000),
    "flash_attn3/__init__.py": b"x = 1\n",
}


def zipped(names: list[str], method: int, level: int, year: int, mode: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=level) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            entry.external_attr = mode << 16
            entry.compress_type = method
            archive.writestr(entry, MEMBERS[name])
    return buffer.getvalue()


def test_equal_contents_give_equal_bytes():
    names = list(MEMBERS)
    one = zipped(names, zipfile.ZIP_DEFLATED, 9, 1999, 0o100600)
    other = zipped(names[::-1], zipfile.ZIP_STORED, 0, 2026, 0o100755)
    assert one != other
    assert normalised(one) == normalised(other)


def test_contents_are_kept_and_record_is_last():
    with zipfile.ZipFile(
        io.BytesIO(normalised(zipped(list(MEMBERS), zipfile.ZIP_DEFLATED, 1, 2000, 0)))
    ) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == MEMBERS
        assert archive.namelist() == [
            "flash_attn3/__init__.py",
            "flash_attn3/lib/libx.so",
            "flash_attn3-1.dist-info/METADATA",
            "flash_attn3-1.dist-info/RECORD",
        ]


def test_every_bit_of_the_contents_counts():
    changed = {**MEMBERS, "flash_attn3/__init__.py": b"x = 2\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in changed.items():
            archive.writestr(name, data)
    assert normalised(buffer.getvalue()) != normalised(zipped(list(MEMBERS), zipfile.ZIP_STORED, 0, 2000, 0))
