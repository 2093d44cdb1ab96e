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
        ("schema_version = 2", "schema_version = 3", "schema_version: should be 2, got 3"),
        ("schema_version = 2", "schema_version = 2\nextra = 1", "extra: is not a key of this table"),
        (
            "cadence_days = 14",
            'cadence_days = "14"',
            "release.cadence_days: should be a valid integer, got '14'",
        ),
        ("cadence_days = 14", "cadence_days = 0", "release.cadence_days: should be greater than 0, got 0"),
        (
            '"candidate"]',
            '"nightly"]',
            "release.channels[1]: should be 'stable' or 'candidate', got 'nightly'",
        ),
        (
            'toolkit = "12.8"',
            'toolkit = "12.9"',
            "release.toolkit: should be one of '12.8', '13.0', got '12.9'",
        ),
        ('required = ["fwd"]', "required = []", "release.required: tuple should have at least 1 item"),
        ('required = ["fwd"]', 'required = "fwd"', "release.required: should be a valid tuple, got 'fwd'"),
        (
            'required = ["fwd"]',
            'required = ["fwd", "fwd"]',
            "release.required: should name each once, got 'fwd' twice",
        ),
        (
            '"3.13t", "3.14"',
            '"3.13x", "3.14"',
            "axes.python[4]: should be a Python such as '3.12' or '3.13t', got '3.13x'",
        ),
        ('"2.10", "2.11"', '"2.10", "2.10"', "torch: should name each once, got '2.10' twice"),
        (
            'cuda = ["cu126"',
            'cuda = ["12.6"',
            "axes.cuda[0]: should be a CUDA build of torch such as 'cu130', got '12.6'",
        ),
        (
            'tag = "manylinux_2_28_aarch64"',
            "",
            "platform[1]: should have both target and tag or neither, got target alone",
        ),
        (
            'proof = "emulation"',
            'proof = "hearsay"',
            "platform[1].proof: should be 'gpu' or 'emulation', got 'hearsay'",
        ),
        (
            'name = "win_amd64"',
            'name = "win_amd64"\nproof = "emulation"',
            "platform[2].proof: should be 'gpu' without a tag, got 'emulation'",
        ),
        ('name = "win_amd64"', 'name = "linux_x86_64"', "platform: should name each once"),
        ('name = "86"', "name = 86", "sm[1].name: should be a valid string, got 86"),
        (
            'name = "newer"',
            'name = "older"',
            "sm[6].name: should be an SM such as '90', or 'newer', got 'older'",
        ),
        ('name = "86"', 'name = "80"', "sm: should name each once, got '80' twice"),
        ("ad9b6d2ead", "XYZ", "toolkit[1].wheels[0].sha256: should be 64 hexadecimal digits, got 'XYZ"),
        ('version = "12.8.93"', 'verison = "12.8.93"', "toolkit[0].wheels[0].version: is missing"),
        (
            'name = "nvidia-cuda-crt"',
            'name = "nvidia-cuda-cccl"',
            "toolkit[1].wheels: should name each once, got 'nvidia-cuda-cccl' twice",
        ),
        ("cuda = [12, 13]", "cuda = 12", "toolkit[0].cuda: should be a valid tuple, got 12"),
        (
            '[[exclude]]\nplatform = ["win_amd64"]',
            '[[exclude]]\nplatform = "win_amd64"',
            "exclude[0].platform: should be a valid tuple, got 'win_amd64'",
        ),
        (
            '[[exclude]]\nplatform = ["win_amd64"]',
            '[[exclude]]\nplatform = ["win_arm64"]',
            "exclude[0].platform[0]: should be one of 'linux_x86_64', 'linux_aarch64', 'win_amd64'",
        ),
        ('[[exclude]]\nplatform = ["win_amd64"]', "[[exclude]]", "exclude[0]: should name at least one axis"),
        (
            'torch = ">=2.15"',
            'torch = "2.15 up"',
            "exclude[1].torch: should be a version specifier such as '>=2.12', got '2.15 up'",
        ),
        (
            'reason = "no Windows',
            'reason = ""\nwhy = "no Windows',
            "exclude[0].reason: should be a reason of at least 10 characters, got ''",
        ),
    ],
)
def test_an_error_names_the_key_what_it_is_and_what_it_should_be(
    tmp_path: Path, old: str, new: str, place: str
):
    with pytest.raises(MatrixError) as caught:
        read_matrix(edited(tmp_path, old, new))
    assert str(caught.value).startswith(place)


def test_a_file_that_is_missing_or_not_toml_is_an_error_that_names_it(tmp_path: Path):
    broken = tmp_path / "matrix.toml"
    broken.write_text("schema_version = \n", encoding="utf-8")
    for path in (broken, tmp_path / "absent.toml"):
        with pytest.raises(MatrixError, match=f"^{path}: cannot be read"):
            read_matrix(path)
