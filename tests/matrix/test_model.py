from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from matrix.errors import MatrixError
from matrix.model import MATRIX_FILE, read_matrix

if TYPE_CHECKING:
    from pathlib import Path

TEXT = MATRIX_FILE.read_text(encoding="utf-8")


def edited(folder: Path, old: str, new: str) -> Path:
    """The real matrix with one edit."""
    assert old in TEXT
    path = folder / "matrix.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_matrix_of_this_tree_can_be_read():
    matrix = read_matrix()
    assert [toolkit.name for toolkit in matrix.toolkit] == ["12.8", "13.0"]
    assert matrix.release.cadence_days == 14


def test_every_pinned_wheel_is_one_exact_file():
    matrix = read_matrix()
    for wheel in (wheel for toolkit in matrix.toolkit for wheel in toolkit.wheels):
        assert wheel.requirement == f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}"


def test_the_build_backend_installs_the_released_toolkit():
    """A `pip install .` compiles with the compiler that the farm releases with."""
    matrix = read_matrix()
    released = next(toolkit for toolkit in matrix.toolkit if toolkit.name == matrix.release.toolkit)
    pyproject = (MATRIX_FILE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for wheel in released.wheels:
        assert f'"{wheel.name}=={wheel.version}"' in pyproject


def test_a_matrix_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        read_matrix().release.toolkit = "13.0"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version: "),
        ("schema_version = 1", "schema_version = 1\nextra = 1", "extra: "),
        ("cadence_days = 14", 'cadence_days = "14"', "release.cadence_days: "),
        ("cadence_days = 14", "cadence_days = 0", "release.cadence_days: "),
        ('"candidate"]', '"nightly"]', "release.channels[1]: "),
        (
            'toolkit = "12.8"',
            'toolkit = "12.9"',
            "release.toolkit: should be one of '12.8', '13.0', got '12.9'",
        ),
        ('"3.13t", "3.14"', '"3.13x", "3.14"', "axes.python[4]: "),
        ('"2.10", "2.11"', '"2.10", "2.10"', "torch: should name each once, got '2.10' twice"),
        ('cuda = ["cu126"', 'cuda = ["12.6"', "axes.cuda[0]: "),
        ('tag = "manylinux_2_28_aarch64"', "", "platform[1]: target and tag should come together"),
        ('name = "win_amd64"', 'name = "linux_x86_64"', "platform: should name each once"),
        ('name = "86"', "name = 86", "sm[1].name: "),
        ('name = "newer"', 'name = "older"', "sm[6].name: "),
        ('name = "86"', 'name = "80"', "sm: should name each once, got '80' twice"),
        ("ad9b6d2ead", "XYZ", "toolkit[1].wheels[0].sha256: "),
        ('version = "12.8.93"', 'verison = "12.8.93"', "toolkit[0].wheels[0].version: "),
        (
            'name = "nvidia-cuda-crt"',
            'name = "nvidia-cuda-cccl"',
            "toolkit[1].wheels: should name each once, got 'nvidia-cuda-cccl' twice",
        ),
        ("cuda = [12, 13]", "cuda = 12", "toolkit[0].cuda: "),
        (
            '[[exclude]]\nplatform = ["win_amd64"]',
            '[[exclude]]\nplatform = "win_amd64"',
            "exclude[0].platform: ",
        ),
        (
            '[[exclude]]\nplatform = ["win_amd64"]',
            '[[exclude]]\nplatform = ["win_arm64"]',
            "exclude[0].platform[0]: should be one of 'linux_x86_64', 'linux_aarch64', 'win_amd64'",
        ),
        ('[[exclude]]\nplatform = ["win_amd64"]', "[[exclude]]", "exclude[0]: should name an axis"),
        ('torch = ">=2.15"', 'torch = "2.15 up"', "exclude[2].torch: "),
        ('reason = "no Windows', 'reason = ""\nwhy = "no Windows', "exclude[0].reason: "),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, old: str, new: str, place: str):
    with pytest.raises(MatrixError) as caught:
        read_matrix(edited(tmp_path, old, new))
    assert str(caught.value).startswith(place)


def test_what_is_no_toml_or_no_file_is_an_error_that_names_the_file(tmp_path: Path):
    broken = tmp_path / "matrix.toml"
    broken.write_text("schema_version = \n", encoding="utf-8")
    for path in (broken, tmp_path / "absent.toml"):
        with pytest.raises(MatrixError, match=f"^{path}: cannot be read"):
            read_matrix(path)
