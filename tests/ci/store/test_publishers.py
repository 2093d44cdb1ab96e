"""Publishers that are killed and that race, while a reader downloads whatever the index lists."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from ci.stages.publish import publish
from ci.stages.revise import published, stored_pages
from tests.publisher import Reader, start_publisher
from tests.quiet import Quiet
from tests.site_kit import NOW, flash_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.store.store import Store

pytestmark = pytest.mark.slow
KILLS = 50


def wheels_of(folder: Path, line: str, count: int) -> list[Path]:
    return [flash_wheel(folder, version=f"{line}.{n}", note="x" * 50_000) for n in range(count)]


def put(store: Store, wheels: Sequence[Path]) -> None:
    publish(wheels=wheels, reports=[], site=store, now=NOW, progress=Quiet())


def assert_whole(store: Store, wheels: Sequence[Path]) -> None:
    """The site lists exactly these wheels, and every page is that of the manifest."""
    manifest, _ = published(store)
    assert {wheel.filename for wheel in manifest.wheels} == {wheel.name for wheel in wheels}
    for path, page in stored_pages(store, manifest):
        found = store.read(path)
        assert found is not None
        assert found.data == page, path


def test_killed_publishers_leave_a_site_that_readers_trust(store: Store, tmp_path: Path) -> None:
    chance = random.Random(16)  # noqa: S311 (no secret)
    first, second, *others = wheels_of(tmp_path / "dist", "1.0", 7)
    for wheel in (first, second):  # the first process of all takes longer to start
        start = time.monotonic()
        process = start_publisher(store, [wheel])
        process.join()
        assert process.exitcode == 0
        whole_s = time.monotonic() - start
    exits, listed = set(), set()
    with store.served() as base:
        reader = Reader(base)
        with reader.looking():
            for turn in range(KILLS):
                process = start_publisher(store, [others[turn * len(others) // KILLS]])
                time.sleep(chance.uniform(0, whole_s))
                process.kill()
                process.join()
                exits.add(process.exitcode)
                listed.add(len(published(store)[0].wheels))
        assert reader.turns > KILLS / 2
    assert -9 in exits
    assert len(listed) > 2, "every kill came before a new manifest: the test proves little"
    put(store, [first, second, *others])
    assert_whole(store, [first, second, *others])


def test_two_publishers_lose_nothing_of_each_other(store: Store, tmp_path: Path) -> None:
    lines = [wheels_of(tmp_path / "dist", line, 5) for line in ("1.0", "2.0")]
    first = flash_wheel(tmp_path / "dist")
    put(store, [first])
    with store.served() as base:
        reader = Reader(base)
        with reader.looking():
            processes = [start_publisher(store, wheels) for wheels in lines]
            for process in processes:
                process.join()
        with reader.looking():
            time.sleep(0.5)
        assert set(reader.files) == {wheel.name for wheel in (first, *lines[0], *lines[1])}
    assert [process.exitcode for process in processes] == [0, 0]
    assert_whole(store, [first, *lines[0], *lines[1]])


def test_two_publishers_of_one_name_leave_one_of_the_two(store: Store, tmp_path: Path) -> None:
    """Whoever comes second fails, and the site holds the bytes that its manifest states."""
    rivals = [flash_wheel(tmp_path / name, note=name * 50_000) for name in ("a", "b")]
    processes = [start_publisher(store, [wheel]) for wheel in rivals]
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [0, 1]
    assert_whole(store, rivals[:1])
    with store.served() as base, Reader(base).looking():
        time.sleep(0.5)
