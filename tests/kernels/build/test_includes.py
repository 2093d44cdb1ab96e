from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kernels.build.includes import files_digest, included_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "own/main.cpp": '#include "near.h"\n #  include "far/away.h"\n#include <no.h>\n// #include "no.h"\n',
        "own/near.h": '#include "main.h"\n',
        "own/main.h": '#include "near.h"\n',  # a circle
        "other/far/away.h": "",
        "own/unused.h": "",
        "own/README.md": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(tree: Path) -> list[str]:
    files = included_files([tree / "own" / "main.cpp"], [tree / "other"])
    return [path.relative_to(tree).as_posix() for path in files]


def test_the_files_are_the_sources_and_what_they_include(tree: Path):
    assert found(tree) == ["other/far/away.h", "own/main.cpp", "own/main.h", "own/near.h"]


def test_the_folder_of_the_including_file_comes_first(tree: Path):
    (tree / "other" / "near.h").write_text("")
    assert "own/near.h" in found(tree)
    assert "other/near.h" not in found(tree)


def test_a_missing_file_is_named_with_the_file_that_includes_it(tree: Path):
    (tree / "own" / "near.h").unlink()
    message = (
        f'{tree}/own/main.cpp: includes "near.h", found at none of {tree}/own/near.h, {tree}/other/near.h'
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        found(tree)


def test_the_digest_follows_names_and_bytes_and_not_the_order_or_the_place(tree: Path, tmp_path: Path):
    paths = [tree / "own" / "main.cpp", tree / "own" / "near.h"]
    first = files_digest(paths, tree)
    assert files_digest(reversed(paths), tree) == first
    moved = tree.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    paths = [moved / "own" / "main.cpp", moved / "own" / "near.h"]
    assert files_digest(paths, moved) == first
    assert files_digest(paths[:1], moved) != first
    (moved / "own" / "near.h").rename(moved / "own" / "same.h")
    assert files_digest([paths[0], moved / "own" / "same.h"], moved) != first
    paths[0].write_text("int x;\n")
    assert files_digest(paths[:1], moved) != files_digest([moved / "own" / "same.h"], moved)
