from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ci.platforms.venv import VirtualEnvironment


@pytest.fixture
def made(tmp_path: Path) -> VirtualEnvironment:
    """An environment without pip, which is made in no time."""
    environment = VirtualEnvironment(tmp_path / "env")
    environment.create(Path(sys.executable), pip=False)
    return environment


def test_an_environment_is_complete_when_it_is_marked(made: VirtualEnvironment):
    assert not made.is_made_from("inputs")
    made.mark_made_from("inputs")
    assert made.is_made_from("inputs")
    assert not made.is_made_from("others")


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path):
    """`--work ~` must not clear ~/env."""
    mine = tmp_path / "env" / "pyvenv.cfg"
    mine.parent.mkdir()
    mine.write_text("the user's own")
    with pytest.raises(FileExistsError, match=f"{mine.parent}: holds files that the farm did not make"):
        VirtualEnvironment(mine.parent).create(Path(sys.executable))
    VirtualEnvironment(mine.parent).remove()
    assert mine.read_text() == "the user's own"


def test_pip_refuses_once_the_environment_is_none(tmp_path: Path):
    """Without pyvenv.cfg its Python is the user's own, and pip would install there."""
    environment = VirtualEnvironment(tmp_path / "env")
    environment.create(Path(sys.executable))
    subprocess.run([*environment.pip, "--version"], check=True, capture_output=True)
    (environment.folder / "pyvenv.cfg").unlink()
    command = [*environment.pip, "install", "--no-index", "absent"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Could not find an activated virtualenv" in done.stderr or "No module named pip" in done.stderr


def test_an_environment_in_use_is_not_removed(made: VirtualEnvironment):
    program = (
        "import sys; from ci.platforms.venv import *; print(VirtualEnvironment(Path(sys.argv[1])).keep())"
    )
    program += "; print(used.keep(), flush=True); sys.stdin.read()"
    keep = [sys.executable, "-c", program, str(made.folder)]
    with subprocess.Popen(keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "True\n"
        assert not made.remove_unless_used()
        assert made.python.exists()
        user.communicate("")
    assert made.remove_unless_used()
    assert list(made.folder.parent.iterdir()) == []
    assert not made.keep()
    assert not made.remove_unless_used()


def test_what_a_killed_removal_left_goes_with_the_next(made: VirtualEnvironment):
    left = made.folder.with_name(".removed-1-env")
    left.mkdir()
    (left / "file").touch()
    made.remove()
    assert list(made.folder.parent.iterdir()) == []
