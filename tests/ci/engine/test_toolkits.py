from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING

import pytest

from ci.engine.toolkits import fetch_toolkit, named_toolkit
from ci.errors import ToolkitUnavailable, UnknownToolkit
from ci.files import sha256_of
from matrix.model import Matrix, PinnedWheel, read_matrix
from tests.quiet import Quiet

if TYPE_CHECKING:
    from pathlib import Path


def write_wheel(wheelhouse: Path, name: str) -> PinnedWheel:
    """A small wheel with a module, a program and metadata that pip accepts."""
    stem = name.replace("-", "_")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        program = zipfile.ZipInfo(f"{stem}/bin/program")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!/bin/sh\n")
        archive.writestr(f"{stem}/include/header.h", f"// {name}\n")
        info = f"{stem}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    path = wheelhouse / f"{stem}-1.0-py3-none-any.whl"
    path.write_bytes(buffer.getvalue())
    return PinnedWheel(name=name, version="1.0", sha256=sha256_of(path))


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def matrix(wheelhouse: Path) -> Matrix:
    """The real matrix with a toolkit of two small wheels."""
    real = read_matrix()
    wheels = (write_wheel(wheelhouse, "fa3-test-compiler"), write_wheel(wheelhouse, "fa3-test-headers"))
    toolkit = real.toolkit[0].model_copy(update={"wheels": wheels})
    return real.model_copy(update={"toolkit": (toolkit,)})


def test_the_wheels_lie_unpacked_side_by_side(tmp_path: Path, wheelhouse: Path, matrix: Matrix):
    site = fetch_toolkit(
        matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=wheelhouse, progress=Quiet()
    )
    assert site.parent == tmp_path / "cache" / "toolkits"
    assert (site / "fa3_test_headers" / "include" / "header.h").read_text() == "// fa3-test-headers\n"
    assert os.access(site / "fa3_test_compiler" / "bin" / "program", os.X_OK)


def test_it_is_downloaded_once(tmp_path: Path, wheelhouse: Path, matrix: Matrix):
    site = fetch_toolkit(
        matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=wheelhouse, progress=Quiet()
    )
    for path in wheelhouse.iterdir():
        path.unlink()
    assert (
        fetch_toolkit(
            matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=wheelhouse, progress=Quiet()
        )
        == site
    )


def test_an_altered_wheel_is_refused(tmp_path: Path, wheelhouse: Path, matrix: Matrix):
    altered = wheelhouse / "fa3_test_headers-1.0-py3-none-any.whl"
    altered.write_bytes(altered.read_bytes() + b"\0")
    with pytest.raises(ToolkitUnavailable, match=f"{altered}: should have the pinned sha256"):
        fetch_toolkit(
            matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=wheelhouse, progress=Quiet()
        )
    assert list((tmp_path / "cache").rglob("*.h")) == []


@pytest.mark.slow
def test_pip_downloads_what_the_wheelhouse_lacks(
    tmp_path: Path, wheelhouse: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    site = fetch_toolkit(
        matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=None, progress=Quiet()
    )
    assert (site / "fa3_test_headers" / "include" / "header.h").is_file()
    assert sorted(path.name for path in site.iterdir() if not path.name.startswith("fa3_test")) == []


@pytest.mark.slow
def test_a_wheel_that_is_not_there_is_one_clear_error(
    tmp_path: Path, wheelhouse: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (wheelhouse / "fa3_test_headers-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        ToolkitUnavailable, match=r"toolkit 12\.8: pip could not download fa3-test-headers: "
    ) as caught:
        fetch_toolkit(
            matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=wheelhouse, progress=Quiet()
        )
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "toolkits").iterdir()) == []


@pytest.mark.slow
def test_pip_refuses_another_file_of_that_name(
    tmp_path: Path, wheelhouse: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    altered = wheelhouse / "fa3_test_headers-1.0-py3-none-any.whl"
    altered.write_bytes(altered.read_bytes() + b"\0")
    with pytest.raises(ToolkitUnavailable, match="pip could not download"):
        fetch_toolkit(matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=None, progress=Quiet())


def test_the_error_for_an_unknown_toolkit_names_the_nearest():
    with pytest.raises(UnknownToolkit, match=r"no toolkit is called '12\.9'; .*12\.8"):
        named_toolkit(read_matrix(), "12.9")
