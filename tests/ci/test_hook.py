"""``pip install .`` from a clean copy of the tree: pip brings the compiler, the hook compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ci.audit import audit

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone holds."""
    listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    files = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    copy = tmp_path_factory.mktemp("tree")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


def test_pip_compiles_and_installs_from_source(tree: Path, wheel: Path, tmp_path: Path):
    """What pip builds in its isolation holds the same kernels as the farm's wheel, bit for bit."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path, tree], check=True)
    built = tmp_path / wheel.name
    assert [check for check in audit(built) if not check.ok] == []
    with zipfile.ZipFile(built) as ours, zipfile.ZipFile(wheel) as farms:
        assert {name: ours.read(name) for name in ours.namelist()} == {
            name: farms.read(name) for name in farms.namelist()
        }
    target = tmp_path / "target"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", target, built], check=True)
    assert json.loads((target / "flash_attn3" / "build.json").read_text())["version"] == "0.1.0"


def test_an_editable_install_compiles_into_the_tree(tree: Path, wheel: Path, toolkits: Path, tmp_path: Path):
    site = next(toolkits.glob("12.8-*"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "ZIG_GLOBAL_CACHE_DIR": str(toolkits.parent / "zig"),
    }
    build = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], check=True, cwd=tree, env=environment)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("flash_attn3/lib/"):
                assert (tree / name).read_bytes() == archive.read(name)
    (editable,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(editable) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(tree)


def test_without_the_toolkit_the_error_says_what_to_install(tree: Path):
    """A build without isolation, in an environment that has the backend and nothing else."""
    build = "from hatchling.build import build_wheel; build_wheel('.')"
    result = subprocess.run(
        [sys.executable, "-c", build], check=False, cwd=tree, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "nvidia-cutlass is not installed in the build environment" in result.stderr
