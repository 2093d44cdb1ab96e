from __future__ import annotations

import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import DiskFull
from ci.files import folder_atomically, sha256_of, write_atomically
from ci.lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@contextmanager
def small_files() -> Iterator[None]:
    """Let this process write no file above 4 KiB: the system refuses as it does on a full disk.

    No longer than the block, for the limit holds for what pytest itself writes too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_the_old_file_stays_and_the_folder_is_named(tmp_path: Path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(DiskFull, match=str(tmp_path)), small_files():
        write_atomically(path, bytes(10_000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_room_a_folder_does_not_appear(tmp_path: Path):
    def fill() -> None:
        with small_files(), folder_atomically(tmp_path / "folder") as scratch:
            (scratch / "small").write_bytes(b"fits")
            (scratch / "large").write_bytes(bytes(10_000))

    with pytest.raises(DiskFull, match=str(tmp_path)):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_filling_fails_does_not_appear(tmp_path: Path):
    def fill() -> None:
        with folder_atomically(tmp_path / "folder") as scratch:
            (scratch / "file").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole(tmp_path: Path):
    with folder_atomically(tmp_path / "folder") as scratch:
        (scratch / "file").write_bytes(b"whole")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_bytes() == b"whole"


HOLD = """
import sys, time
from pathlib import Path
from ci.lock import lock
with lock(Path(sys.argv[1]), lambda text: print(text, flush=True)):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_lock_is_waited_for_and_released_by_a_kill(tmp_path: Path):
    with holder(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with holder(tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"waiting for another farm, which works in {tmp_path}\n"
            first.send_signal(signal.SIGKILL)
            assert second.stdout.readline() == "held\n"
            second.kill()


def test_a_lock_can_be_taken_again(tmp_path: Path):
    for _ in range(2):
        with lock(tmp_path / "folder"):
            assert (tmp_path / "folder").is_dir()


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
