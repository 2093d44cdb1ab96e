"""The import rules of pyproject.toml: kept by the tree, and broken by a tree that breaks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import tomli
from importlinter.cli import lint_imports

from tests.closed_contract import ClosedContract
from tests.tree_copy import copy_tree

ROOT = Path(__file__).parents[1]
CONFIG = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract for contract in CONFIG["contracts"]}
VIOLATIONS = {
    "package": ("flash_attn3/checks/outcome.py", "import ci.errors"),
    "kernels": ("kernels/errors.py", "import packaging"),
    "matrix": ("matrix/cell.py", "import index_site"),
    "index_site": ("index_site/gpus.py", "import ci.names"),
    "ci": ("ci/store/folder.py", "import ci.engine.cache"),
    "gpu_side": ("ci/gpu_side/install.py", "import packaging"),
    "scripts": ("ci/platforms/venv.py", "import tomli"),
    "circles": ("kernels/build/toolkit.py", "import kernels.build.compile"),
}
"""Contract -> a file and a line that breaks it when appended to the file."""


def test_the_tree_keeps_the_rules(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_every_rule_can_be_broken(tmp_path: Path):
    assert VIOLATIONS.keys() == CONTRACTS.keys()
    copy_tree(tmp_path)
    for file, line in VIOLATIONS.values():
        with (tmp_path / file).open("a", encoding="utf-8") as source:
            source.write(f"\n{line}\n")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    command = [sys.executable, "-c", f"import sys; sys.path[0] = {str(tmp_path)!r}; {program}"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"Contracts: 0 kept, {len(CONTRACTS)} broken." in done.stdout


@pytest.mark.parametrize(
    ("imported", "kept"),
    [
        *(("json", True), ("os.path", True), ("__future__", True), ("room.other", True), ("torch", True)),
        *(("numpy", False), ("torchvision", False), ("elsewhere.room", False), ("roommate", False)),
    ],
)
def test_a_closed_room_imports_what_is_allowed(imported: str, kept: bool):
    graph = grimp.ImportGraph()
    for name in ("room", "room.module"):
        graph.add_module(name)
    graph.add_import(importer="room.module", imported=imported)
    options = {"name": "closed", "modules": ["room"], "allowed": ["torch"]}
    contract = ClosedContract("closed", session_options={}, contract_options=options)
    check = contract.check(graph, verbose=False)
    assert check.kept == kept
    assert check.metadata["wrong"] == ([] if kept else [f"room.module imports {imported}"])


def test_modules_of_a_gpu_machine_load_without_site_packages():
    """The contract allows torch and flash_attn3 in gpu_side; here neither can be imported."""
    rooms = [*CONTRACTS["gpu_side"]["modules"], *CONTRACTS["scripts"]["modules"]]
    names = sorted(name for room in rooms for name in _modules(room))
    assert len(names) > len(rooms)
    program = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'ci'}\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def _modules(room: str) -> list[str]:
    """The modules of a package, or the module itself."""
    folder = ROOT / room.replace(".", "/")
    if not folder.is_dir():
        return [room]
    return [room, *(f"{room}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__")]
