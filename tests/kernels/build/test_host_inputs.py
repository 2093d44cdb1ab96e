"""What decides the bytes of the host libraries, and so when they are built again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.build import host_inputs
from kernels.build.host import DEVICE_DIR, HOST_DIR, RUNTIME, TARGETS, TORCH
from kernels.build.host_inputs import host_digest, host_sources

TARGET = TARGETS[0]
SHARED_HEADERS = set((DEVICE_DIR / "params").glob("*.h"))
KERNELS = HOST_DIR.parent


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `kernels`, whose sources the digest then follows."""
    for folder in ("host", "device"):
        shutil.copytree(KERNELS / folder, tmp_path / folder)
    monkeypatch.setattr(host_inputs, "HOST_DIR", tmp_path / "host")
    return tmp_path


def test_the_digest_does_not_depend_on_the_place(tree: Path, monkeypatch: pytest.MonkeyPatch):
    assert tree / "host" == host_inputs.HOST_DIR
    copied = host_digest(TARGET, "1.0")
    monkeypatch.setattr(host_inputs, "HOST_DIR", HOST_DIR)
    assert host_digest(TARGET, "1.0") == copied


@pytest.mark.parametrize("path", host_sources(), ids=lambda path: Path(path).relative_to(KERNELS).as_posix())
def test_the_digest_follows_every_file_that_is_compiled(path: Path, tree: Path):
    before = host_digest(TARGET, "1.0")
    assert host_digest(TARGET, "1.0") == before
    with (tree / path.relative_to(KERNELS)).open("a") as file:
        file.write("// one more line\n")
    assert host_digest(TARGET, "1.0") != before


@pytest.mark.parametrize(
    "name", ["host/README.md", "host/.clang-format", "host/new.h", "device/fwd/fwd_sm90.cu"]
)
def test_the_digest_ignores_every_other_file(name: str, tree: Path):
    before = host_digest(TARGET, "1.0")
    with (tree / name).open("a") as file:
        file.write("one more line\n")
    assert host_digest(TARGET, "1.0") == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNTIME", replace(RUNTIME, link_flags=("-O3",))),
        ("TORCH", replace(TORCH, link_flags=("-O3",))),
        ("COMPILE_FLAGS", ("-O3",)),
        ("LINK_FLAGS", ("-O3",)),
        ("ZIG_VERSION", "0.0"),
    ],
)
def test_the_digest_follows_how_the_libraries_are_built(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
):
    before = host_digest(TARGET, "1.0")
    monkeypatch.setattr(host_inputs, name, value)
    assert host_digest(TARGET, "1.0") != before


def test_the_digest_follows_target_and_version():
    digests = [host_digest(target, version) for target in TARGETS for version in ("1.0", "1.1")]
    assert len(set(digests)) == len(digests)


def test_the_sources_are_all_files_of_the_folder_and_the_shared_headers():
    sources = {path for path in HOST_DIR.rglob("*") if path.suffix in {".cpp", ".h"}}
    no_operator_has_scratch_yet = {HOST_DIR / "pack" / "workspace.h"}
    assert set(host_sources()) == (sources | SHARED_HEADERS) - no_operator_has_scratch_yet


def test_the_host_libraries_include_nothing_else_from_outside_their_folder():
    sources = [path for path in HOST_DIR.rglob("*") if path.suffix in {".cpp", ".h"}]
    included = {
        name for path in sources for name in re.findall(r'#include "(.*)"', path.read_text(encoding="utf-8"))
    }
    own = {path.relative_to(HOST_DIR).as_posix() for path in sources}
    assert included - own <= {path.relative_to(DEVICE_DIR).as_posix() for path in SHARED_HEADERS}
