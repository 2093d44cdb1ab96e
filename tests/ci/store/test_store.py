"""What every store does alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from ci.errors import UnsafeSite
from ci.store.store import ChangedMeanwhile
from index_site.hosting import cache_control, content_type
from tests.quiet import Quiet

if TYPE_CHECKING:
    from pathlib import Path

    from ci.store.store import Store


def test_an_immutable_file_is_stored_once_and_read_back(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "copy"
    with store.writing(create=True, report=Quiet().say):
        source.write_bytes(b"wheel")
        store.put("files/a+1.whl", source)
        version = store.version("files/a+1.whl")
        source.write_bytes(b"wheel")
        store.put("files/a+1.whl", source)
        store.put("files/a+1.whl.metadata", b"Name: a")
    assert store.version("files/a+1.whl") == version
    found = store.read("files/a+1.whl")
    assert found is not None
    assert (found.data, found.version) == (b"wheel", version)
    with store.local_copy("files/a+1.whl") as copy:
        assert (copy.name, copy.read_bytes()) == ("a+1.whl", b"wheel")
    assert sorted(store.paths()) == ["files/a+1.whl", "files/a+1.whl.metadata"]
    assert list(store.paths("files/a+1.whl.")) == ["files/a+1.whl.metadata"]


def test_a_page_is_replaced_only_over_the_version_that_was_read(store: Store) -> None:
    with store.writing(create=True, report=Quiet().say):
        first = store.replace("a/index.html", b"1", None)
        second = store.replace("a/index.html", b"2", first)
        for stale in (None, first, "absent"):
            with pytest.raises(ChangedMeanwhile, match=r"a/index\.html: another publisher has replaced it"):
                store.replace("a/index.html", b"3", stale)
        with pytest.raises(ChangedMeanwhile):
            store.replace("b.html", b"3", second)
    found = store.read("a/index.html")
    assert found is not None
    assert (found.data, found.version) == (b"2", second)


def test_what_does_not_exist_is_none_and_can_be_deleted(store: Store) -> None:
    with store.writing(create=True, report=Quiet().say):
        assert store.read("absent.html") is None
        assert store.version("absent/deep.html") is None
        store.put("files/a.whl", b"a")
        for path in ("files/a.whl", "files/a.whl", "absent.html"):
            store.delete(path)
        assert list(store.paths()) == []


def test_a_site_is_made_on_demand_only_and_a_foreign_place_is_refused(store: Store) -> None:
    with (
        pytest.raises(UnsafeSite, match="is not a site of this farm"),
        store.writing(create=False, report=Quiet().say),
    ):
        pass
    assert list(store.paths()) == []
    store.put("photos/cat.jpg", b"cat")
    with (
        pytest.raises(UnsafeSite, match="that are not a site of this farm"),
        store.writing(create=True, report=Quiet().say),
    ):
        pass
    assert list(store.paths()) == ["photos/cat.jpg"]


@pytest.mark.parametrize(
    "path",
    [
        "files/a+1-py3-none-any.whl",
        "files/a+1-py3-none-any.whl.metadata",
        "stable/index.html",
        "stable/simple/v1+json/flash-attn3/index.json",
        "2026-12-07/simple/index.html",
        "2026-12-07/simple/v1+json/flash-attn3/index.json",
        "manifest.json",
        "page.css",
        "_headers",
    ],
)
def test_files_are_served_with_their_type_and_caching(store: Store, path: str) -> None:
    with store.writing(create=True, report=Quiet().say):
        store.put(path, b"data") if cache_control(path) != "max-age=600" else store.replace(
            path, b"data", None
        )
    with store.served() as base:
        answer = requests.get(base + path.replace("+", "%2B"), timeout=10)
    assert answer.content == b"data"
    assert answer.headers["Content-Type"] == content_type(path)
    assert answer.headers["Cache-Control"] == cache_control(path)
