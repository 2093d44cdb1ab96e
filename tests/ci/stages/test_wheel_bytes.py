"""The wheel's bytes follow what the compilers put out and the Python that ships, and no prose.

A copy of the tree is edited, one kind of file a test, and built with the real compilers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.files import sha256_of
from tests.conftest import FEW
from tests.tree_copy import copy_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
NOTE = "A note of two lines, so that those behind it have other numbers"
C_COMMENT = f"// {NOTE}\n//\n\n"
SCRIPT_COMMENT = f"# {NOTE}\n#\n"


@dataclass(frozen=True)
class Tree:
    """A copy of what a clone holds, with a work folder of its own."""

    root: Path
    work: Path

    def build(self) -> str:
        """Build the wheel of a few kernels; return its sha256."""
        only = [argument for pattern in FEW for argument in ("--only", pattern)]
        command = [sys.executable, "-m", "ci", "build", "--work", str(self.work), *only]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return sha256_of(Path(done.stdout.strip()))

    def compiles(self) -> set[Path]:
        """Return what the cache holds: an object for each compile so far."""
        return {path for path in (self.work / "cache" / "objects").rglob("*") if path.is_file()}

    def files(self, folder: str, *patterns: str) -> list[Path]:
        """Return the files below a folder that match a pattern."""
        return sorted(path for pattern in patterns for path in (self.root / folder).rglob(pattern))


@pytest.fixture(scope="module")
def copied(wheel: Path, toolkits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, str]:
    """A tree that is not edited, with a cache of its compiles, and the sha256 of its wheel."""
    tree = Tree(tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("work"))
    copy_tree(tree.root)
    cache = tree.work / "cache"
    cache.mkdir()
    (cache / "toolkits").symlink_to(toolkits)
    shutil.copytree(toolkits.parent / "objects", cache / "objects")
    before = tree.compiles()
    sha256 = tree.build()
    assert sha256 == sha256_of(wheel)
    assert tree.compiles() == before
    return tree, sha256


@pytest.fixture
def sha256(copied: tuple[Tree, str]) -> str:
    """The sha256 of the wheel of the tree before it is edited."""
    return copied[1]


@pytest.fixture
def tree(copied: tuple[Tree, str]) -> Iterator[Tree]:
    """The tree, to be edited; its files are restored afterwards."""
    tree, _ = copied
    saved = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    yield tree
    for path, data in saved.items():
        if path.read_bytes() != data:
            path.write_bytes(data)


@dataclass(frozen=True)
class Edit:
    """A text to put before or behind that of every file of one kind."""

    files: Callable[[Tree], list[Path]]
    text: str
    behind: bool = False

    def apply(self, tree: Tree) -> None:
        paths = self.files(tree)
        assert paths, "the tree has no such file"
        for path in paths:
            old = path.read_text(encoding="utf-8")
            path.write_text(old + self.text if self.behind else self.text + old, encoding="utf-8")


def python_outside_the_package(tree: Tree) -> list[Path]:
    package = tree.root / "flash_attn3"
    return [path for path in tree.files(".", "*.py") if not path.is_relative_to(package)]


# The headers come with the sources, because each of these tests compiles all kernels or both host libraries.
COMPILED_PROSE = {
    "comment in .cu and .cuh": Edit(lambda tree: tree.files("kernels/device", "*.cu", "*.cuh"), C_COMMENT),
    "comment in .cpp and .h": Edit(lambda tree: tree.files("kernels", "*.cpp", "*.h"), C_COMMENT),
}
PROSE = {
    "comment in .py outside the package": Edit(python_outside_the_package, SCRIPT_COMMENT),
    "text in .md": Edit(lambda tree: tree.files(".", "[!D]*.md"), NOTE),  # all but DESCRIPTION.md
    "comment in .clang-format": Edit(lambda tree: tree.files("kernels", ".clang-format"), SCRIPT_COMMENT),
    "comment in pyproject.toml": Edit(lambda tree: tree.files(".", "pyproject.toml"), SCRIPT_COMMENT),
}
CODE = {
    "code in .cu": Edit(
        lambda tree: tree.files("kernels/device/combine", "*.cu"),
        'extern "C" __global__ void added(int* where) { *where = 7; }\n',
        behind=True,
    ),
    "code in .cpp": Edit(
        lambda tree: tree.files("kernels/host", "api.cpp"),
        'extern "C" __attribute__((visibility("default"))) int fa3_added() { return 7; }\n',
        behind=True,
    ),
    "code in .py of the package": Edit(
        lambda tree: tree.files("flash_attn3", "combine.py"), "ADDED = 7\n", behind=True
    ),
    "description": Edit(lambda tree: [tree.root / "DESCRIPTION.md"], NOTE),
    "licence": Edit(lambda tree: [tree.root / "LICENSE"], NOTE),
}


@pytest.mark.parametrize("edit", COMPILED_PROSE.values(), ids=COMPILED_PROSE.keys())
def test_a_comment_is_compiled_again_and_leaves_the_wheel(edit: Edit, tree: Tree, sha256: str):
    before = tree.compiles()
    edit.apply(tree)
    assert tree.build() == sha256
    assert tree.compiles() > before


@pytest.mark.parametrize("edit", PROSE.values(), ids=PROSE.keys())
def test_prose_beside_the_sources_compiles_nothing_and_leaves_the_wheel(edit: Edit, tree: Tree, sha256: str):
    before = tree.compiles()
    edit.apply(tree)
    assert tree.build() == sha256
    assert tree.compiles() == before


@pytest.mark.parametrize("edit", CODE.values(), ids=CODE.keys())
def test_code_and_licence_change_the_wheel(edit: Edit, tree: Tree, sha256: str):
    edit.apply(tree)
    assert tree.build() != sha256


def test_a_number_of_the_table_changes_the_wheel(tree: Tree, sha256: str):
    family = tree.root / "kernels" / "table" / "families" / "combine.py"
    text = family.read_text(encoding="utf-8")
    changed = text.replace("_THREADS_PER_SM = 2048\n", "_THREADS_PER_SM = 1024\n")
    assert changed != text
    family.write_text(changed, encoding="utf-8")
    assert tree.build() != sha256
