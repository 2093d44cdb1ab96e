from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.engine.cache import Cache
from ci.errors import CorruptObject

ROOT = Path(__file__).parents[3]
KEY, OTHER = "a" * 64, "b" * 64
FILES = {"kernel.cubin": bytes(range(256)), "report.json": b"{}", "empty": b""}


def test_what_is_stored_is_loaded(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.store(KEY, FILES)
    assert cache.load(KEY) == FILES
    assert cache.load(OTHER) is None


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.binary()))
def test_any_files_can_be_stored(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    cache.store(KEY, files)
    assert cache.load(KEY) == files


def test_every_truncation_is_seen(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.store(KEY, FILES)
    path = cache.path(KEY)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptObject, match=str(path)):
            cache.load(KEY)


def test_every_altered_byte_is_seen(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.store(KEY, FILES)
    path = cache.path(KEY)
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(CorruptObject, match=str(path)):
            cache.load(KEY)


def test_an_object_under_another_key_is_seen(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.store(KEY, FILES)
    cache.path(OTHER).parent.mkdir()
    cache.path(KEY).rename(cache.path(OTHER))
    with pytest.raises(CorruptObject, match=f"belongs to the key {KEY}"):
        cache.load(OTHER)


def test_a_corrupt_object_is_deleted_with_a_warning_and_never_used(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.store(KEY, FILES)
    cache.path(KEY).write_bytes(b"FARMOBJ\x01 nonsense")
    warnings: list[str] = []
    assert cache.fetch(KEY, warnings.append) is None
    assert not cache.path(KEY).exists()
    assert len(warnings) == 1
    assert str(cache.path(KEY)) in warnings[0]


def test_a_folder_in_the_place_of_an_object_is_named_and_left_alone(tmp_path: Path):
    """The cache made none there, so that it is not the cache's to delete."""
    cache = Cache(tmp_path)
    mine = cache.path(KEY) / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("the user's own")
    for read in (cache.load, lambda key: cache.fetch(key, pytest.fail)):
        with pytest.raises(CorruptObject, match=f"{cache.path(KEY)}: should be a file of the cache"):
            read(KEY)
    assert mine.read_text() == "the user's own"


def test_a_file_in_the_place_of_a_folder_is_named_and_left_alone(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.path(KEY).parent.write_text("the user's own")
    with pytest.raises(CorruptObject, match="should be a file of the cache in a folder of it"):
        cache.fetch(KEY, pytest.fail)
    assert cache.path(KEY).parent.read_text() == "the user's own"
