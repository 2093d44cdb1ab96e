"""How the host libraries are built, and what the files promise: symbols, dependencies, reproducible bytes."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

from kernels.build import host as build
from kernels.build.host import HOST_DIR, RUNTIME, TARGETS, TORCH, HostBuildError, build_host, main

if TYPE_CHECKING:
    from pathlib import Path

MACHINES = {"x86_64-linux-gnu.2.17": "EM_X86_64", "aarch64-linux-gnu.2.28": "EM_AARCH64"}


@pytest.fixture(scope="module", params=TARGETS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("built") / "lib"
    paths = build_host(request.param, folder, "1.2.3")
    assert sorted(folder.iterdir()) == sorted(paths)  # nothing else is left
    return request.param, folder


def dynamic_symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names that the library defines, and names that it needs."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        symbols = [symbol for symbol in table.iter_symbols() if symbol.name]
        undefined = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
        return {symbol.name for symbol in symbols} - undefined, undefined


def dynamic_tags(path: Path, tag: str) -> list[str]:
    attribute = {"DT_NEEDED": "needed", "DT_RUNPATH": "runpath", "DT_SONAME": "soname"}[tag]
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynamic")
        assert isinstance(section, DynamicSection)
        return [getattr(entry, attribute) for entry in section.iter_tags(tag)]


def glibc_versions(path: Path) -> set[tuple[int, ...]]:
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".gnu.version_r")
        assert isinstance(section, GNUVerNeedSection)
        names = [version.name for _, versions in section.iter_versions() for version in versions]
    assert all(name.startswith("GLIBC_") for name in names)
    return {tuple(int(part) for part in name.removeprefix("GLIBC_").split(".")) for name in names}


def declared(header: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (HOST_DIR / header).read_text()))


HEADERS = ("flash_attn3.h", *(f"ops/{path.name}" for path in (HOST_DIR / "ops").glob("*.h")))
API = set().union(*(declared(header, r"FA3_API [\w* ]+?\b(fa3_\w+)\(") for header in HEADERS))
SHIM = declared("torch/shim.h", r"\b((?:aoti_)?torch_\w+)\(")


def test_headers_are_read() -> None:
    assert {"fa3_version", "fa3_fwd", "fa3_combine"} <= API
    assert "aoti_torch_check" in SHIM


def test_only_the_api_is_exported(built: tuple[str, Path]) -> None:
    defined, _ = dynamic_symbols(built[1] / RUNTIME.name)
    assert defined == API
    defined, undefined = dynamic_symbols(built[1] / TORCH.name)
    assert not defined
    assert {name for name in undefined if name.startswith("fa3_")} <= API
    assert {name for name in undefined if "torch" in name} == SHIM


def test_every_symbol_has_a_provider(built: tuple[str, Path]) -> None:
    """The linker checks the runtime's; the operator library is linked against an empty stand-in for torch."""
    _, undefined = dynamic_symbols(built[1] / TORCH.name)
    _, of_runtime = dynamic_symbols(built[1] / RUNTIME.name)
    libc = {"memcpy", "memset", "dladdr", "dlerror", "dlopen", "dlsym", "snprintf", "strrchr", "vsnprintf"}
    operator_delete = {"_ZdlPv"}  # of the C++ runtime that torch brings
    assert undefined - API - SHIM - of_runtime <= libc | operator_delete


def test_dependencies(built: tuple[str, Path]) -> None:
    system = {"libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    runtime, torch = built[1] / RUNTIME.name, built[1] / TORCH.name
    assert set(dynamic_tags(runtime, "DT_NEEDED")) <= system
    assert set(dynamic_tags(torch, "DT_NEEDED")) - system == {"libtorch_cpu.so", RUNTIME.name}
    assert dynamic_tags(runtime, "DT_RUNPATH") == []
    assert dynamic_tags(torch, "DT_RUNPATH") == ["$ORIGIN"]
    assert [dynamic_tags(path, "DT_SONAME") for path in (runtime, torch)] == [[RUNTIME.name], [TORCH.name]]


def test_glibc_is_old_enough(built: tuple[str, Path]) -> None:
    target, folder = built
    oldest = tuple(int(part) for part in target.split("gnu.")[1].split("."))
    for library in (RUNTIME, TORCH):
        assert max(glibc_versions(folder / library.name)) <= oldest


def test_machine_and_size(built: tuple[str, Path]) -> None:
    target, folder = built
    for library in (RUNTIME, TORCH):
        with (folder / library.name).open("rb") as file:
            assert ELFFile(file)["e_machine"] == MACHINES[target]
        assert (folder / library.name).stat().st_size < 64_000


def test_files_tell_nothing_of_the_builder(built: tuple[str, Path]) -> None:
    for library in (RUNTIME, TORCH):
        data = (built[1] / library.name).read_bytes()
        assert str(HOST_DIR).encode() not in data
        assert str(built[1].parent).encode() not in data
        assert b".cpp" not in data


def test_same_bytes_in_another_folder(built: tuple[str, Path], tmp_path: Path) -> None:
    target, folder = built
    for path in build_host(target, tmp_path / "a longer and other folder", "1.2.3"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_version_is_compiled_in(built: tuple[str, Path]) -> None:
    assert b"\x001.2.3\x00" in (built[1] / RUNTIME.name).read_bytes()


def test_every_source_is_built() -> None:
    sources = {path.relative_to(HOST_DIR).as_posix() for path in HOST_DIR.rglob("*.cpp")}
    assert sources == {*RUNTIME.sources(HOST_DIR), *TORCH.sources(HOST_DIR)}


def test_bad_target_and_version(tmp_path: Path) -> None:
    with pytest.raises(
        HostBuildError, match=r"target 'x86_64-windows-gnu' is unknown; it should be one of x86_64"
    ):
        build_host("x86_64-windows-gnu", tmp_path, "1.0")
    with pytest.raises(HostBuildError, match=r"version '1\.0\"' should be made of letters"):
        build_host(TARGETS[0], tmp_path, '1.0"')
    assert not list(tmp_path.iterdir())


def test_other_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.99.0")
    with pytest.raises(HostBuildError, match=r"ziglang is 0\.99\.0; it should be 0\.14\.1"):
        build_host(TARGETS[0], tmp_path, "1.0")


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(HostBuildError, match=r"the compiler is missing; install ziglang==0\.14\.1"):
        build_host(TARGETS[0], tmp_path, "1.0")


def test_a_broken_source_fails_and_keeps_what_was_built(
    built: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(HOST_DIR, tmp_path / "host")
    shutil.copytree(HOST_DIR.parent / "device", tmp_path / "device")
    (tmp_path / "host" / "ops" / "fwd.cpp").write_text("int unused_value() { return undeclared; }\n")
    monkeypatch.setattr(build, "HOST_DIR", tmp_path / "host")
    target, folder = built
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HostBuildError, match=r"undeclared identifier"):
        build_host(target, folder, "1.2.3")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "sparc", "--out", str(tmp_path), "--version", "1"]) == 14
    assert capsys.readouterr().err.startswith("kernels.build.host: error: target 'sparc' is unknown")
    command = [sys.executable, "-m", "kernels.build.host", "--target", TARGETS[0], "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--version", "1.0"], cwd=HOST_DIR.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / RUNTIME.name), str(tmp_path / TORCH.name)]
