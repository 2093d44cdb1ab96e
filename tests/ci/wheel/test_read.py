"""Reading a wheel: its fields, and the ways in which it can be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.errors import CorruptWheel
from ci.wheel.read import read_wheel
from tests.site_kit import PLATFORM_TAG, flash_members, flash_wheel, write_wheel

if TYPE_CHECKING:
    from pathlib import Path

NAME = f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl"
INFO = "flash_attn3-0.1.0.dist-info"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flash_wheel(tmp_path_factory.mktemp("good"))


def test_facts(good: Path) -> None:
    facts = read_wheel(good)
    assert (facts.project, facts.version, facts.filename) == ("flash-attn3", "0.1.0", NAME)
    assert facts.tags == (f"py3-none-{PLATFORM_TAG}",)
    assert facts.requires_python == ">=3.10"
    assert facts.requires_dist == ("torch>=2.9",)
    assert facts.size == good.stat().st_size
    assert facts.metadata == flash_members()[f"{INFO}/METADATA"]
    assert facts.build is not None
    assert facts.build["version"] == "0.1.0"


def test_copy_is_checked_against_the_name_it_will_have(good: Path, tmp_path: Path) -> None:
    copy = tmp_path / "0"
    copy.write_bytes(good.read_bytes())
    assert read_wheel(copy, filename=NAME) == read_wheel(good)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flash_attn3.whl", "not the name of a wheel"),
        (f"flash_attn3-0.2.0-py3-none-{PLATFORM_TAG}.whl", "its METADATA is of flash-attn3 0.1.0"),
        (f"flash_attn4-0.1.0-py3-none-{PLATFORM_TAG}.whl", "its METADATA is of flash-attn3 0.1.0"),
    ],
)
def test_wrong_name(good: Path, name: str, message: str) -> None:
    with pytest.raises(CorruptWheel, match=message):
        read_wheel(good, filename=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{INFO}/METADATA": b"Metadata-Version: 2.4\n"}, "METADATA cannot be read"),
        ({f"{INFO}/METADATA": b"\xff\xfe"}, "METADATA cannot be read"),
        ({"flash_attn3/build.json": b"{"}, "build.json is not JSON"),
        ({"flash_attn3/build.json": b"[]"}, "build.json must be a JSON object"),
        ({"../outside.py": b""}, "outside the environment"),
        ({"/outside.py": b""}, "outside the environment"),
        ({"other-1.dist-info/METADATA": b""}, "2 .dist-info folders"),
    ],
)
def test_wrong_members(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    path = write_wheel(tmp_path, name=NAME, members={**flash_members(), **changes})
    with pytest.raises(CorruptWheel, match=message):
        read_wheel(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "has no row with a hash and a size in RECORD"),
        (b"flash_attn3/__init__.py,sha256=AAAA,1\n", "does not match its hash and size"),
        (b"flash_attn3/__init__.py,,\n", "has no row with a hash|does not match"),
        (b"flash_attn3/gone.py,sha256=AAAA,1\n", "RECORD lists flash_attn3/gone.py"),
        (b"\xff", "not a whole wheel"),
    ],
)
def test_wrong_record(tmp_path: Path, record: bytes, message: str) -> None:
    path = write_wheel(tmp_path, name=NAME, members=flash_members(), record=record)
    with pytest.raises(CorruptWheel, match=message):
        read_wheel(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptWheel, match="No such file"):
        read_wheel(tmp_path / NAME)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_truncated_or_altered_bytes_are_never_accepted_as_other_contents(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = good.read_bytes()
    cut = data.draw(st.integers(0, len(raw) - 1), label="cut")
    path = tmp_path_factory.mktemp("cut") / NAME
    path.write_bytes(raw[:cut])
    with pytest.raises(CorruptWheel):
        read_wheel(path)
    flip = data.draw(st.integers(1, 255), label="flip")
    path.write_bytes(raw[:cut] + bytes([raw[cut] ^ flip]) + raw[cut + 1 :])
    try:
        facts = read_wheel(path)
    except CorruptWheel:
        return
    # A few bits of a zip (times, attributes) mean nothing to an installer; what is installed is the same.
    assert (facts.metadata, facts.build) == (read_wheel(good).metadata, read_wheel(good).build)
