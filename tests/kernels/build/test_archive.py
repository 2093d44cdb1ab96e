from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.build.archive import normalised

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


def test_the_bytes_are_those_of_every_machine_and_python():
    """The same digest came out of Python 3.10 to 3.13, of x86_64 without and with AVX2, and of aarch64."""
    numbers = b"".join(str(number * number).encode() for number in range(20000))
    names = {"a/lib/numbers.so": numbers, "a/zeros.py": bytes(100_000), "a/empty.py": b""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    digest = hashlib.sha256(normalised(buffer.getvalue())).hexdigest()
    assert digest == "81e2aa72a542ca59001db64249ee648bb11597722b37e22c96d0c637c9b696b8"


def test_members_are_compressed_where_that_makes_them_smaller():
    with zipfile.ZipFile(
        io.BytesIO(normalised(zipped(list(MEMBERS), zipfile.ZIP_STORED, 0, 2000, 0)))
    ) as archive:
        library, tiny = archive.getinfo("flash_attn3/lib/libx.so"), archive.getinfo("flash_attn3/__init__.py")
    assert (library.compress_type, tiny.compress_type) == (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)
    assert library.compress_size < 50
    assert (library.external_attr >> 16, tiny.external_attr >> 16) == (0o100755, 0o100644)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}/[a-z]{1,8}\.py", fullmatch=True), st.binary(max_size=3000)))
def test_any_contents_come_back(members: dict[str, bytes]):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with zipfile.ZipFile(io.BytesIO(normalised(buffer.getvalue()))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == members


def test_a_name_that_another_encoding_would_change_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("flash_attn3/ä.py", b"")
    with pytest.raises(UnicodeEncodeError):
        normalised(buffer.getvalue())
