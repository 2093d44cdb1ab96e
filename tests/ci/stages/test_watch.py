"""What the watch proposes for the real matrix, from an index on this machine that answers as a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli

from ci.engine.package_index import PackageIndex
from ci.stages.watch import watch
from matrix.model import MATRIX_FILE, read_matrix
from matrix.planner import plan
from tests.ci.engine.index_server import Index, serving, wheel
from tests.tree_copy import copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
LINUX, ARM, WINDOWS = "manylinux2014_x86_64.manylinux_2_17_x86_64", "manylinux_2_27_aarch64", "win_amd64"


def torches(version: str, pythons: list[str]) -> list[dict[str, Any]]:
    names = [(name.rstrip("t"), f"{name.rstrip('t')}{'t' * name.endswith('t')}") for name in pythons]
    return [wheel(f"torch-{version}-{tag}-{abi}-manylinux_2_28_x86_64.whl") for tag, abi in names]


def cuda(project: str, version: str, sha256: str, **others: Any) -> list[dict[str, Any]]:
    """A release of a CUDA wheel, for each platform; the one for Linux on x86_64 has the sha256."""
    stem = f"{project.replace('-', '_')}-{version}-py3-none"
    hashes = {LINUX: sha256, ARM: "e" * 64, WINDOWS: "f" * 64}
    return [wheel(f"{stem}-{tag}.whl", digest, **others) for tag, digest in hashes.items()]


@pytest.fixture
def served() -> Iterator[Index]:
    """An index that has what the matrix pins, and nothing later."""
    matrix = read_matrix()
    projects: dict[str, list[dict[str, Any]]] = {}
    for toolkit in matrix.toolkit:
        for pin in toolkit.wheels:
            projects.setdefault(pin.name, []).extend(cuda(pin.name, pin.version, pin.sha256))
    newest = [f"cp{python.replace('.', '')}" for python in matrix.axes.python]
    projects["torch"] = [row for version in matrix.axes.torch for row in torches(f"{version}.0", newest)]
    with serving(Index(projects)) as index:
        yield index


def proposal_of(served: Index, tmp_path: Path) -> tuple[tuple[str, ...], Any]:
    """The news and the proposed matrix, which the reader and the planner take."""
    proposal = watch(index=PackageIndex(served.url, pause_s=0.01, timeout_s=5))
    file = tmp_path / "matrix.toml"
    file.write_text(proposal.after, encoding="utf-8")
    matrix = read_matrix(file)
    assert len(plan(matrix).served) >= len(plan(read_matrix()).served)
    return proposal.news, matrix


def test_an_index_without_news_changes_nothing(served: Index):
    proposal = watch(index=PackageIndex(served.url))
    assert (proposal.news, proposal.diff) == ((), "")
    assert proposal.after == MATRIX_FILE.read_text(encoding="utf-8")


def test_a_new_torch_becomes_a_value_of_the_axis(served: Index, tmp_path: Path):
    """Not its test releases, not a yanked one, and not later fixes of one that is known."""
    known = read_matrix().axes
    served.projects["torch"] += torches("9.0.0", ["cp312"]) + torches("9.1.0rc1", ["cp312"])
    served.projects["torch"] += torches("2.9.7", ["cp312"])
    served.projects["torch"] += [wheel("torch-9.2.0-cp312-cp312-win_amd64.whl", yanked="broken")]
    news, matrix = proposal_of(served, tmp_path)
    assert news == ("torch 9.0 is out",)
    assert matrix.axes.torch == (*known.torch, "9.0")
    assert matrix.axes.python == known.python


def test_a_new_python_comes_with_the_torches_that_it_lacks(served: Index, tmp_path: Path):
    oldest, *_, latest = read_matrix().axes.torch
    served.projects["torch"] += torches(f"{latest}.1", ["cp312", "cp399", "cp399t"])
    served.projects["torch"] += torches(f"{oldest}.9", ["cp398"])  # dropped again
    news, matrix = proposal_of(served, tmp_path)
    assert news == ("torch has wheels for Python 3.99", "torch has wheels for Python 3.99t")
    assert matrix.axes.python[-2:] == ("3.99", "3.99t")
    served_torches = {row.cell.torch for row in plan(matrix).served if row.cell.python == "3.99"}
    assert served_torches == {latest}
    reasons = {row.reason for row in plan(matrix).excluded if row.cell.python == "3.99t"}
    assert f"torch has no wheel for Python 3.99t (cp399t) before {latest}" in reasons


def test_a_new_compiler_becomes_a_toolkit_with_the_hashes_of_its_wheels(served: Index, tmp_path: Path):
    """The latest that is whole; its headers beside CUDA's own stay, and so does the released toolkit."""
    for project in ("nvrtc", "runtime", "crt", "cccl"):
        name = f"nvidia-cuda-{project}"
        served.projects[name] += cuda(name, "13.7.10", "1" * 64) + cuda(name, "13.8.20", "2" * 64)
        served.projects[name] += cuda(name, "13.8.99", "3" * 64, yanked="wrong")
    served.projects["nvidia-cuda-nvrtc"] += cuda("nvidia-cuda-nvrtc", "13.9.1", "4" * 64)  # alone
    before = read_matrix()
    news, matrix = proposal_of(served, tmp_path)
    assert news == ("CUDA compiler 13.8 is out",)
    *kept, new = matrix.toolkit
    assert kept == list(before.toolkit)
    assert matrix.release == before.release
    old = {pin.name: pin for pin in before.toolkit[-1].wheels}
    assert new.name == "13.8"
    for pin in new.wheels:
        if pin.name in {"nvidia-cutlass", "nvidia-cuda-cccl"}:
            assert pin == old[pin.name]
        else:
            assert (pin.version, pin.sha256) == ("13.8.20", "2" * 64)


def test_a_pinned_wheel_that_was_yanked_or_dropped_is_news_without_a_change(served: Index):
    first, second, *_ = read_matrix().toolkit[0].wheels
    for row in served.projects[first.name]:
        row["yanked"] = "it miscompiles"
    served.projects[second.name] = cuda(second.name, second.version, "9" * 64)
    proposal = watch(index=PackageIndex(served.url))
    assert proposal.diff == ""
    assert proposal.news == (
        f"toolkit 12.8: {first.name} {first.version} was yanked: it miscompiles",
        f"toolkit 12.8: {second.name} {second.version} is gone from the index",
    )


def test_the_form_of_the_file_stays(served: Index):
    """Every line of before is there, in its place; what is new has the form of what was there."""
    served.projects["torch"] += torches("9.0.0", ["cp312"])
    name = "nvidia-cuda-nvrtc-cu12"
    for project in (name, "nvidia-cuda-runtime-cu12"):
        served.projects[project] += cuda(project, "12.9.1", "1" * 64)
    proposal = watch(index=PackageIndex(served.url))
    removed = [line for line in proposal.diff.splitlines() if line.startswith("-") and line[:3] != "---"]
    assert [line[:9] for line in removed] == ["-torch = "]
    assert "\n\n\n" not in proposal.after
    assert (
        f'[[toolkit.wheels]]\nname = "{name}"\nversion = "12.9.1"\nsha256 = "{"1" * 64}"\n' in proposal.after
    )


START = "import runpy, sys; sys.path[0] = sys.argv.pop(1); runpy.run_module('ci', run_name='__main__')"


def farm_watch(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        START,
        str(root),
    ]
    return subprocess.run(
        [*command, "watch", *arguments], check=False, cwd=root, capture_output=True, text=True
    )


def test_the_command_says_by_its_exit_code_whether_something_is_new(served: Index, tmp_path: Path):
    """The diff applies, and --apply does the same; afterwards nothing is new."""
    copy_tree(tmp_path)
    file = tmp_path / "matrix" / "matrix.toml"
    nothing = farm_watch(tmp_path, "--index", served.url)
    assert (nothing.returncode, nothing.stdout) == (0, ""), nothing.stderr
    served.projects["torch"] += torches("9.0.0", ["cp312"])
    found = farm_watch(tmp_path, "--index", served.url)
    assert found.returncode == 48
    assert found.stderr == "torch 9.0 is out\n"
    assert file.read_bytes() == MATRIX_FILE.read_bytes()
    applied = farm_watch(tmp_path, "--index", served.url, "--apply")
    assert (applied.returncode, applied.stdout) == (48, found.stdout)
    assert tomli.loads(file.read_text())["axes"]["torch"][-1] == "9.0"
    written = file.read_bytes()
    file.write_bytes(MATRIX_FILE.read_bytes())
    subprocess.run(["git", "apply"], input=found.stdout, check=True, cwd=tmp_path, text=True)
    assert file.read_bytes() == written
    assert farm_watch(tmp_path, "--index", served.url).returncode == 0


def test_an_index_that_cannot_be_read_is_one_error_and_changes_nothing(served: Index, tmp_path: Path):
    copy_tree(tmp_path)
    served.answers["torch"] = ["404"]
    failed = farm_watch(tmp_path, "--index", served.url, "--apply")
    assert failed.returncode == 49
    assert failed.stderr == f"farm: error: {served.url}/torch/: status 404\n"
    assert (tmp_path / "matrix" / "matrix.toml").read_bytes() == MATRIX_FILE.read_bytes()
