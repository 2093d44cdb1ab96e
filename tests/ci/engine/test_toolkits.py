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
from tests.ci.engine.index_server import Index, serving
from tests.ci.engine.index_server import wheel as index_wheel
from tests.quiet import Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
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
        ToolkitUnavailable, match=r"toolkit 12\.8: pip could not download fa3-test-headers 1\.0: "
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


def index_of(folder: Path, wheels: Sequence[PinnedWheel], wheelhouse: Path, attributes: str = "") -> str:
    """Write an index for pip, with the attributes of each link; return its address."""
    for wheel in wheels:
        (file,) = wheelhouse.glob(f"{wheel.name.replace('-', '_')}-*.whl")
        page = folder / wheel.name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(
            f'<!DOCTYPE html><a href="{file.as_uri()}#sha256={wheel.sha256}" {attributes}>{file.name}</a>'
        )
    return folder.as_uri()


def set_index(monkeypatch: pytest.MonkeyPatch, address: str, **settings: str) -> None:
    """Let pip read one index alone, with further settings."""
    only = {"INDEX_URL": address, "CONFIG_FILE": os.devnull, "FIND_LINKS": ""}
    for name, value in {**only, **settings}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


@pytest.mark.slow
def test_a_wheel_that_is_yanked_upstream_is_still_fetched_for_it_is_pinned(
    tmp_path: Path, wheelhouse: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    address = index_of(tmp_path / "index", matrix.toolkit[0].wheels, wheelhouse, 'data-yanked="it is wrong"')
    set_index(monkeypatch, address)
    site = fetch_toolkit(
        matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=None, progress=Quiet()
    )
    assert (site / "fa3_test_headers" / "include" / "header.h").is_file()


@pytest.mark.slow
def test_a_wheel_that_is_gone_upstream_is_named_with_its_version(
    tmp_path: Path, wheelhouse: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    set_index(monkeypatch, index_of(tmp_path / "index", matrix.toolkit[0].wheels[:1], wheelhouse))
    with pytest.raises(ToolkitUnavailable) as caught:
        fetch_toolkit(matrix=matrix, name="12.8", cache=tmp_path / "cache", wheelhouse=None, progress=Quiet())
    assert str(caught.value) == (
        "toolkit 12.8: pip could not download fa3-test-compiler 1.0, fa3-test-headers 1.0: "
        "No matching distribution found for fa3-test-headers==1.0"
    )
    assert list((tmp_path / "cache" / "toolkits").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["500", "cut", "stall"])
def test_a_network_that_fails_is_tried_again_and_then_the_wheel_is_named(
    trouble: str, tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    wheel = matrix.toolkit[0].wheels[0]
    file = f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    one = matrix.toolkit[0].model_copy(update={"wheels": (wheel,)})
    with serving(Index({wheel.name: [index_wheel(file, wheel.sha256)]}, {file: [trouble] * 99})) as index:
        index.projects[file] = []
        set_index(monkeypatch, index.url, RETRIES="1", RESUME_RETRIES="1", DEFAULT_TIMEOUT="1")
        with pytest.raises(ToolkitUnavailable, match=rf"^toolkit 12\.8: pip could not .*{file}") as caught:
            fetch_toolkit(
                matrix=matrix.model_copy(update={"toolkit": (one,)}),
                name="12.8",
                cache=tmp_path / "cache",
                wheelhouse=None,
                progress=Quiet(),
            )
    assert index.asked.count(file) >= 2
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "toolkits").iterdir()) == []


def test_the_error_for_an_unknown_toolkit_names_the_nearest():
    with pytest.raises(UnknownToolkit, match=r"no toolkit is called '12\.9'; .*12\.8"):
        named_toolkit(read_matrix(), "12.9")
