from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ci.engine.cache import Cache
from ci.engine.toolkits import toolkit_folder
from ci.platforms.linux_aarch64 import LINUX_AARCH64
from ci.platforms.venv import VirtualEnvironment
from ci.stages.clean import Removed, clean
from matrix.model import read_matrix
from tests.quiet import Quiet

NOW = datetime.now(timezone.utc)
MATRIX = read_matrix()
OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder of which half is needed."""
    cache = Cache(tmp_path / "cache" / "objects")
    for key in (OLD, NEW):
        cache.store(key, {"kernel": bytes(1000)})
        os.utime(cache.path(key), times=(NOW.timestamp() - 40 * 86400, NOW.timestamp() - 40 * 86400))
    cache.load(NEW)  # as a build does
    for folder in (
        toolkit_folder(MATRIX.toolkit[0], tmp_path / "cache"),
        tmp_path / "cache/toolkits/9.9-012345abcdef",
    ):
        folder.mkdir(parents=True)
        (folder / "libnvrtc.so").write_bytes(bytes(2000))
    for machine in (LINUX_AARCH64.folder(tmp_path / "cache"), tmp_path / "cache/emulated/old-012345abcdef"):
        (machine / "root").mkdir(parents=True)
    for name in ("farm-py311-0123456789ab", "farm-py311-abcdefabcdef"):
        environment = VirtualEnvironment(tmp_path / "venvs" / name)
        environment.create(Path(sys.executable), pip=False)
        environment.mark_made_from("inputs")
    (tmp_path / "venvs" / "farm").symlink_to(environment.folder.name)
    return tmp_path


def cleaned(work: Path) -> dict[str, Removed]:
    since = NOW - timedelta(days=30)
    removed = clean(work=work, matrix=MATRIX, unused_since=since, progress=Quiet())
    return {found.kind: found for found in removed}


def test_what_no_build_needs_goes_and_the_rest_stays(work: Path):
    cache = Cache(work / "cache" / "objects")
    removed = cleaned(work)
    assert {kind: found.count for kind, found in removed.items()} == {
        "compiled objects": 1,
        "toolkits": 1,
        "emulated machines": 1,
        "environments": 1,
    }
    assert removed["toolkits"].size >= 2000
    assert (cache.load(OLD), cache.load(NEW)) == (None, {"kernel": bytes(1000)})
    assert [path.name for path in (work / "cache" / "toolkits").iterdir()] == [
        toolkit_folder(MATRIX.toolkit[0], work).name
    ]
    assert LINUX_AARCH64.folder(work / "cache").is_dir()
    assert (work / "venvs" / "farm" / "bin" / "python").exists()
    assert sum(found.count for found in cleaned(work).values()) == 0


def test_what_the_farm_did_not_make_stays(work: Path):
    mine = [
        work / "cache" / "objects" / "aa" / "notes.txt",
        work / "cache" / "toolkits" / "my-toolkit" / "file",
        work / "venvs" / "mine" / "file",
        work / "venvs" / "farm-py311-111111111111" / "file",  # a name of the farm's, without its mark
        work / "dist" / "flash_attn3-0.0.1-py3-none-any.whl",
        work / "site" / "manifest.json",
        work / "reports" / "report.json",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, times=(0, 0))
    cleaned(work)
    assert all(path.read_text() == "mine" for path in mine)


def test_an_environment_in_use_stays(work: Path):
    (other,) = [
        path for path in (work / "venvs").glob("farm-*") if path != (work / "venvs" / "farm").resolve()
    ]
    assert VirtualEnvironment(other).keep()  # until this process ends
    assert cleaned(work)["environments"].count == 0
    assert VirtualEnvironment(other).python.exists()


def test_nothing_to_clean_is_no_error(tmp_path: Path):
    assert sum(found.count for found in cleaned(tmp_path / "new").values()) == 0
