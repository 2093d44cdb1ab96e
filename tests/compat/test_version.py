"""The version of the drop-in meets what other projects require of FlashAttention-3, for pip and for uv."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import flash_attn3
import flash_attn_3
from ci.platforms.environment import Environment, ProgramError, fresh_environment, inspect_interpreter
from ci.project import compat_version
from ci.stages.publish import publish
from ci.store.serve import served
from kernels.build.version import RELEASE
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report, torch_folder, write_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = compat_version(RELEASE)
MEETS = (
    *("", ">=3.0.0", "==3.0.0", ">=3.0.0b1", "~=3.0.0", "==3.*", "<=3.0.0", ">=3,<4", ">2.8"),
    *("==3.0.0,>=3.0.0b1", f"=={OURS}"),
)
MEETS_NOT = ("==3.0.0b1", ">3.0.0", "<3.0.0", "!=3.0.0", ">=3.0.1", "==3.0.0.post1", "<3", f"==3.0.0+{10**6}")


def test_the_package_states_it():
    assert flash_attn_3.__version__ == compat_version(flash_attn3.__version__)
    stated = f"3.0.0+{RELEASE}"
    assert stated == OURS


@pytest.mark.parametrize("specifier", MEETS)
def test_it_meets_the_pins_of_the_interface(specifier: str):
    assert SpecifierSet(specifier).contains(OURS)


@pytest.mark.parametrize("specifier", MEETS_NOT)
def test_it_meets_no_pin_of_another_interface(specifier: str):
    assert not SpecifierSet(specifier).contains(OURS, prereleases=True)


def test_transformer_engine_takes_it_for_no_beta():
    """It compares so, and passes other arguments to a beta."""
    beta, version, final = map(Version, ("3.0.0b", OURS, "3.0.0"))
    assert not beta < version < final
    assert not version.is_prerelease


_NUMBERS = st.lists(st.integers(0, 12), min_size=3, max_size=4).map(lambda parts: ".".join(map(str, parts)))
_RELEASES = st.tuples(_NUMBERS, st.sampled_from(["", "+ours", "+cu130.1"])).map("".join)


@given(_RELEASES, _RELEASES)
def test_releases_keep_their_order(first: str, second: str):
    if Version(first) < Version(second):
        assert Version(compat_version(first)) < Version(compat_version(second))
    assert Version(compat_version(first)) > Version("3.0.0")


@pytest.mark.parametrize("release", ["0.2.0rc1", "0.2.0.post1", "0.2.0.dev3", "1!0.2", "0.2.0+5", "", "v1"])
def test_a_release_that_would_not_sort_is_refused(release: str):
    with pytest.raises(ValueError, match=r"^version must be numbers, .*; it is"):
        compat_version(release)


def _drop_in(folder: Path, version: str, release: str) -> Path:
    """A small wheel of the drop-in's name."""
    info = f"flash_attn_3-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.4\nName: flash-attn-3\nVersion: {version}\nRequires-Python: >=3.10\n"
        f"Requires-Dist: flash-attn3=={release}\n"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {
        "flash_attn_interface.py": b"",
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel.encode(),
    }
    return write_wheel(folder, name=f"flash_attn_3-{version}-py3-none-any.whl", members=members)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index with this drop-in, older ones, one that was published as 0.1.0, and another provider's."""
    folder = tmp_path_factory.mktemp("index")
    releases = {compat_version(release): release for release in ("0.0.9", "0.0.10", RELEASE)}
    versions = {**releases, "0.1.0": "0.1.0", "3.0.0": "0.1.0", "3.0.0b1": "0.1.0"}
    wheels = [_drop_in(folder / "dist", version, release) for version, release in versions.items()]
    publish(wheels=wheels, reports=(), site=folder / "site", now=NOW, progress=Quiet())
    with served(folder / "site") as base:
        yield f"{base}candidate/simple/"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, index: str) -> Environment:
    folder = tmp_path_factory.mktemp("resolving")
    interpreter = inspect_interpreter(Path(sys.executable))
    torch_site = torch_folder(folder / "torch")
    return fresh_environment(folder / "env", interpreter=interpreter, torch_site=torch_site, index=index)


def _by_pip(environment: Environment, index: str, requirement: str, folder: Path) -> str:
    environment.shell(
        f"pip download --no-deps --only-binary :all: --index-url {index} '{requirement}'", cwd=folder
    )
    (wheel,) = folder.glob("*.whl")
    return wheel.name.split("-")[1]


def _by_uv(environment: Environment, index: str, requirement: str, folder: Path) -> str:
    (folder / "requirements.in").write_text(f"{requirement}\n")
    plain = "--no-deps --no-header --no-annotate --quiet"
    locked = environment.shell(f"uv pip compile {plain} --default-index {index} requirements.in", cwd=folder)
    return locked.strip().removeprefix("flash-attn-3==")


@pytest.mark.slow
@pytest.mark.parametrize("resolve", [_by_pip, _by_uv])
@pytest.mark.parametrize(
    ("requirement", "version"),
    [
        ("flash-attn-3", OURS),
        ("flash-attn-3>=3.0.0", OURS),
        ("flash_attn_3>=3.0.0b1", OURS),
        ("flash-attn-3==3.0.0", OURS),
        ("flash-attn-3~=3.0.0", OURS),
        (f"flash-attn-3=={OURS}", OURS),
        (f"flash-attn-3=={compat_version('0.0.10')}", compat_version("0.0.10")),
        ("flash-attn-3==3.0.0b1", "3.0.0b1"),
        ("flash-attn-3==0.1.0", "0.1.0"),
        ("flash-attn-3>3.0.0", None),
    ],
)
def test_installers_choose(  # noqa: PLR0917  fixtures
    resolve, requirement, version, environment: Environment, index: str, tmp_path: Path
):
    if version is None:
        with pytest.raises(ProgramError):
            resolve(environment, index, requirement, tmp_path)
    else:
        assert resolve(environment, index, requirement, tmp_path) == version


def test_the_page_shows_no_drop_in_of_an_older_release(tmp_path: Path):
    """Its version alone would say that it is newer than any release."""
    site, current = tmp_path / "site", flash_wheel(tmp_path / "dist", version="0.2.0")
    drop_ins = [
        _drop_in(tmp_path / "dist", compat_version(release), release) for release in ("0.1.0", "0.3.0")
    ]
    wheels = [flash_wheel(tmp_path / "dist", version=release) for release in ("0.1.0", "0.3.0")]
    proof = report(tmp_path / "report.json", current)
    everything = [current, *wheels, *drop_ins]
    publish(wheels=everything, reports=[proof], site=site, now=NOW, progress=Quiet(), policy=TRUSTING)
    page = (site / "index.html").read_text()
    assert "flash_attn_3-3.0.0+0.3.0-" in page
    assert "flash_attn_3-3.0.0+0.1.0-" not in page
