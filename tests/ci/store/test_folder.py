"""Which folders a site may live in, and one writer at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci.errors import UnsafeSite
from ci.store.folder import held_site
from ci.store.store import MARKER


def refused(site: Path, message: str) -> None:
    before = sorted(site.iterdir()) if site.is_dir() else None
    with pytest.raises(UnsafeSite, match=message), held_site(site):
        pass
    assert before == (sorted(site.iterdir()) if site.is_dir() else None)


def test_root_is_refused() -> None:
    refused(Path("/"), "is or holds your home folder")


def test_home_and_its_parents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "homes" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    refused(home, "home folder")
    refused(home.parent, "home folder")


def test_current_folder_and_its_parents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(Path(), "current folder")
    refused(Path(".."), "current folder")


def test_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    refused(tmp_path / "repo", "repository")


def test_foreign_folder_is_refused_even_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "site").symlink_to(tmp_path / "photos")
    refused(tmp_path / "site", "not a site of this farm")


@pytest.mark.parametrize("site", ["file", "file/below"])
def test_file_is_refused(tmp_path: Path, site: str) -> None:
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / site, "cannot be used as a folder")
    assert (tmp_path / "file").read_text() == "precious"


def test_new_empty_and_own_folders_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for site in (tmp_path / "new" / "deep", tmp_path / "empty", tmp_path / "empty"):
        with held_site(site) as root:
            assert root == site.resolve()
            (root / "page.html").touch()
        assert (site / MARKER).is_dir()


def test_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    site = tmp_path / "site"
    code = (
        "import sys, pathlib; from ci.store.folder import held_site\n"
        "with held_site(pathlib.Path(sys.argv[1])) as root: (root / 'second').touch()"
    )
    with held_site(site):
        second = subprocess.Popen([sys.executable, "-c", code, str(site)], cwd=Path(__file__).parents[3])
        time.sleep(1.0)
        assert second.poll() is None
        assert not (site / "second").exists()
    assert second.wait(timeout=30) == 0
    assert (site / "second").exists()
