"""Verifying a site: real pip, real uv, and every way in which a served site can be wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests

from ci.errors import VerifyFailed
from ci.platforms.environment import ProgramError, fresh_environment, inspect_interpreter
from ci.stages.publish import publish, yank
from ci.stages.snapshot import snapshot
from ci.stages.verify import verify
from ci.stages.verify.installation import Installation
from ci.stages.verify.served_site import check_served, check_store
from ci.stages.verify.tools import offline, pip_lock, uv_project
from ci.store.serve import served
from index_site.errors import CorruptManifest
from index_site.manifest import read_manifest
from tests.quiet import Quiet
from tests.site_kit import (
    NOW,
    PLATFORM_TAG,
    TRUSTING,
    flash_members,
    flash_wheel,
    report,
    torch_folder,
    write_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.stages.verify.tools import Tool

PYTHON = Path(sys.executable)


def put(site: Path, *wheels: Path, reports: Sequence[Path] = ()) -> None:
    publish(wheels=wheels, reports=reports, site=site, now=NOW, progress=Quiet(), policy=TRUSTING)


@pytest.fixture(scope="module")
def torch_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torch_folder(tmp_path_factory.mktemp("torch") / "site-packages")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with a stable wheel, a newer candidate, and a wheel of another platform."""
    folder = tmp_path_factory.mktemp("good")
    stable = flash_wheel(folder / "dist", version="0.1.0")
    foreign = write_wheel(
        folder / "dist", name="flash_attn3-0.1.0-py3-none-win_amd64.whl", members=flash_members(note="win")
    )
    reports = [report(folder / f"{n}.json", wheel) for n, wheel in enumerate((stable, foreign))]
    put(folder / "site", stable, foreign, flash_wheel(folder / "dist", version="0.2.0rc1"), reports=reports)
    return folder / "site"


@pytest.fixture
def site(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "site"))


def failed(site: Path) -> dict[str, str]:
    with served(site) as base:
        checks = check_served(base, read_manifest(site))
    return {check.name: check.detail for check in checks if not check.ok}


# ---- what is served


def test_good_site_has_no_fault(good: Path) -> None:
    assert failed(good) == {}


def test_site_works_below_any_path(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "a" / "b c")
    with served(tmp_path) as host:
        assert [
            check for check in check_served(f"{host}a/{quote('b c')}/", read_manifest(good)) if not check.ok
        ] == []


def alter(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.mark.parametrize(
    ("victim", "check"),
    [
        ("files/*0.1.0*linux*.whl", "files"),
        ("files/*0.1.0*linux*.whl.metadata", "files"),
        ("reports/*.json", "files"),
        ("stable/index.html", "pages"),
        ("stable/simple/flash-attn3/index.html", "pages"),
        ("candidate/simple/v1+json/flash-attn3/index.json", "pages"),
        ("index.html", "pages"),
        ("manifest.json", "pages"),
    ],
)
@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_one_wrong_byte_or_missing_file_is_found(
    site: Path, victim: str, check: str, damage: Callable[[Path], None]
) -> None:
    manifest = read_manifest(site)
    path = next(iter(site.glob(victim)))
    damage(path)
    with served(site) as base:
        faults = {found.name: found.detail for found in check_served(base, manifest) if not found.ok}
    assert path.name in faults[check]


def test_a_wrong_size_in_the_manifest_is_found(site: Path) -> None:
    manifest = read_manifest(site)
    first, *others = manifest.wheels
    wrong = manifest.model_copy(update={"wheels": (first.model_copy(update={"size": 1}), *others)})
    with served(site) as base:
        faults = {found.name: found.detail for found in check_served(base, wrong) if not found.ok}
    assert f"files/{first.filename} has not the manifest's size 1" in faults["files"]


def test_files_that_no_manifest_names_are_found(good: Path, site: Path) -> None:
    assert check_store(good, read_manifest(good)).ok
    (site / "files" / "numpy-9.0-py3-none-any.whl").touch()
    (site / "stable" / "simple" / "numpy").mkdir()
    (site / "stable" / "simple" / "numpy" / "index.html").touch()
    check = check_store(site, read_manifest(site))
    assert not check.ok
    assert check.detail == "wrong: files/numpy-9.0-py3-none-any.whl, stable/simple/numpy/index.html"


def test_broken_link_is_found(site: Path) -> None:
    (site / "wheels.html").unlink()
    assert "wheels.html" in failed(site)["links"]


def test_server_types_pages_as_installers_demand_and_lists_no_folder(good: Path) -> None:
    with served(good) as base:
        for path, wanted in {
            "stable/": "text/html; charset=utf-8",
            "stable/simple/flash-attn3/": "text/html; charset=utf-8",
            "stable/simple/v1+json/flash-attn3/": "application/vnd.pypi.simple.v1+json",
            "manifest.json": "application/json",
        }.items():
            assert requests.get(base + path, timeout=10).headers["Content-Type"] == wanted
        assert requests.get(base + "files/", timeout=10).status_code == 404
        assert requests.get(base + "../../etc/passwd", timeout=10).status_code == 404


# ---- installing


@pytest.mark.slow
def test_every_way_installs_what_the_channel_offers(good: Path, torch_site: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in torch_site.rglob("*")}
    progress = Quiet()
    checks = verify(site=good, python=PYTHON, progress=progress, torch_site=torch_site)
    ways = (
        "pip",
        "uv",
        "pip, with find-links",
        "pip, with pinned hashes",
        "uv, in a project",
        "uv, with a uv.toml for every project below its folder",
    )
    installs = {check.name: check.detail for check in checks if ": " in check.name}
    assert installs == {
        f"stable: {way}": "installed and imported flash_attn3 0.1.0"
        for way in (*ways, "pip, from the JSON pages, which also have what --uploaded-prior-to needs")
    }
    assert len(progress.said) == len(checks) == 13
    assert {path: path.stat().st_mtime_ns for path in torch_site.rglob("*")} == before


@pytest.mark.slow
def test_all_tools_install_what_the_index_offers(site: Path, torch_site: Path) -> None:
    snapshot(site=site, date="2026-12-07", progress=Quiet())
    checks = verify(site=site, python=PYTHON, progress=Quiet(), torch_site=torch_site, all_tools=True)
    details = {check.name: check.detail for check in checks}
    good = "installed and imported flash_attn3 0.1.0"
    tools = ("uv lock, uv sync", "pip lock", "offline", "snapshot 2026-12-07")
    assert {tool: details[tool] for tool in tools} == dict.fromkeys(tools, good)


@pytest.mark.slow
@pytest.mark.parametrize("tool", [uv_project, pip_lock, offline])
def test_no_tool_installs_an_altered_wheel(site: Path, torch_site: Path, tmp_path: Path, tool: Tool) -> None:
    wheel = next(wheel for wheel in read_manifest(site).on_channel("stable") if "linux" in wheel.filename)
    members = {**flash_members(), "flash_attn3/extra.py": b"print('not what was published')\n"}
    write_wheel(site / "files", name=wheel.filename, members=members)
    interpreter = inspect_interpreter(PYTHON)
    with served(site) as base:
        installation = Installation(wheel, interpreter, torch_site, f"{base}stable/simple/", tmp_path)
        check = installation.check_tool("altered", tool, base)
    assert not check.ok
    assert "hash" in check.detail.lower()


@pytest.mark.slow
def test_candidate_newer_than_stable_is_installed_too(tmp_path: Path, torch_site: Path) -> None:
    wheels = [flash_wheel(tmp_path / "dist", version=version) for version in ("0.1.0", "0.2.0", "0.3.0")]
    put(tmp_path / "site", *wheels, reports=[report(tmp_path / "r.json", wheels[0])])
    yank(site=tmp_path / "site", patterns=["*-0.3.0-*"], reason="wrong", progress=Quiet())
    checks = verify(site=tmp_path / "site", python=PYTHON, progress=Quiet(), torch_site=torch_site)
    seen = {check.name.split(":")[0]: check.detail for check in checks if ": " in check.name}
    assert seen == {
        "stable": "installed and imported flash_attn3 0.1.0",
        "candidate": "installed and imported flash_attn3 0.2.0",
    }


def test_torch_too_old_for_the_wheel_fails_each_way_with_the_installers_words(
    good: Path, tmp_path: Path
) -> None:
    old = torch_folder(tmp_path / "old", version="2.8.0")
    with pytest.raises(VerifyFailed, match="7 of 13 checks failed") as caught:
        verify(site=good, python=PYTHON, progress=Quiet(), torch_site=old)
    assert "torch>=2.9" in str(caught.value)


def test_wheel_that_lies_about_its_version_fails(tmp_path: Path, torch_site: Path) -> None:
    members = {**flash_members(), "flash_attn3/__init__.py": b'__version__ = "9.9"\n'}
    put(
        tmp_path / "site",
        write_wheel(tmp_path, name=f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl", members=members),
    )
    with pytest.raises(VerifyFailed, match=r"candidate: uv: .* installed 9\.9, should have been 0\.1\.0"):
        verify(site=tmp_path / "site", python=PYTHON, progress=Quiet(), torch_site=torch_site)


def test_wheel_that_does_not_import_fails_with_the_traceback(tmp_path: Path, torch_site: Path) -> None:
    members = {**flash_members(), "flash_attn3/__init__.py": b"import no_such_module\n"}
    put(
        tmp_path / "site",
        write_wheel(tmp_path, name=f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl", members=members),
    )
    with pytest.raises(VerifyFailed, match="No module named 'no_such_module'"):
        verify(site=tmp_path / "site", python=PYTHON, progress=Quiet(), torch_site=torch_site)


def test_altered_wheel_is_refused_by_the_installers_themselves(site: Path, torch_site: Path) -> None:
    members = {**flash_members(), "flash_attn3/extra.py": b"print('not what was published')\n"}
    write_wheel(site / "files", name=f"flash_attn3-0.1.0-py3-none-{PLATFORM_TAG}.whl", members=members)
    with pytest.raises(VerifyFailed) as caught:
        verify(site=site, python=PYTHON, progress=Quiet(), torch_site=torch_site)
    assert "8 of 13 checks failed" in str(caught.value)
    assert "files: wrong: files/flash_attn3-0.1.0" in str(caught.value)
    assert "stable: pip, with pinned hashes" in str(caught.value)


def test_nothing_for_this_interpreter_is_said(tmp_path: Path, torch_site: Path) -> None:
    foreign = write_wheel(tmp_path, name="flash_attn3-0.1.0-py3-none-win_amd64.whl", members=flash_members())
    put(tmp_path / "site", foreign)
    progress = Quiet()
    checks = verify(site=tmp_path / "site", python=PYTHON, progress=progress, torch_site=torch_site)
    assert [check.name for check in checks] == [
        "audits",
        "files",
        "pages",
        "content types",
        "links",
        "store",
    ]
    assert progress.warned[0].startswith("nothing was installed")


def test_dependencies_come_from_a_wheelhouse(good: Path, tmp_path: Path) -> None:
    info = "torch-2.9.0.dist-info"
    members = {
        "torch/__init__.py": b'__version__ = "2.9.0"\n',
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    wheelhouse = tmp_path / "wheelhouse"
    write_wheel(wheelhouse, name="torch-2.9.0-py3-none-any.whl", members=members)
    checks = verify(site=good, python=PYTHON, progress=Quiet(), wheelhouse=wheelhouse)
    assert len(checks) == 13
    shutil.rmtree(wheelhouse)
    wheelhouse.mkdir()
    with pytest.raises(VerifyFailed, match="torch cannot be installed"):
        verify(site=good, python=PYTHON, progress=Quiet(), wheelhouse=wheelhouse)


@pytest.mark.parametrize("python", ["no/such/python", "/bin/false"])
def test_interpreter_that_does_not_run_is_named(good: Path, python: str) -> None:
    with pytest.raises(VerifyFailed, match=f"python: {python} cannot be run"):
        verify(site=good, python=Path(python), progress=Quiet())


def test_folder_without_a_site_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptManifest, match=r"manifest\.json: cannot be read"):
        verify(site=tmp_path, python=PYTHON, progress=Quiet())


# ---- environments


def test_environment_shows_torch_but_neither_a_flash_attn3_nor_a_way_to_write_there(tmp_path: Path) -> None:
    torch_site = torch_folder(tmp_path / "packages")
    flash_info = torch_site / "flash_attn3-0.0.1.dist-info"
    flash_info.mkdir()
    (flash_info / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn3\nVersion: 0.0.1\n")
    (torch_site / "flash_attn3").mkdir()
    (torch_site / "flash_attn3" / "__init__.py").touch()
    environment = fresh_environment(
        tmp_path / "fresh",
        interpreter=inspect_interpreter(PYTHON),
        torch_site=torch_site,
        index="http://127.0.0.1:1/",
    )
    assert environment.python_output("import torch; print(torch.__version__)", cwd=tmp_path) == "2.9.0\n"
    with pytest.raises(ProgramError, match="No module named 'flash_attn3'"):
        environment.python_output("import flash_attn3", cwd=tmp_path)
    listing = environment.shell("uv pip list --format json", cwd=tmp_path)
    assert "torch" in listing
    assert "flash-attn3" not in listing
    environment.shell("uv pip uninstall torch", cwd=tmp_path)
    assert (torch_site / "torch" / "__init__.py").exists()


def test_environment_ignores_the_users_own_configuration(
    good: Path, torch_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with served(good) as base:
        environment = fresh_environment(
            tmp_path / "fresh",
            interpreter=inspect_interpreter(PYTHON),
            torch_site=torch_site,
            index=f"{base}stable/simple/",
        )
        for tool in ("pip install -q", "uv pip install --reinstall-package flash-attn3"):
            environment.shell(f"{tool} --index-url {base}stable/simple/ flash-attn3", cwd=tmp_path)
        pip = (
            f"pip install -q --force-reinstall --no-deps --index-url {base}stable/simple/v1+json/ flash-attn3"
        )
        environment.shell(pip, cwd=tmp_path)


@pytest.mark.slow
def test_uv_locks_from_the_index(good: Path, tmp_path: Path) -> None:
    """A lock is made from the index as in a project, and holds the sha256 of every wheel of the release."""
    manifest = read_manifest(good)
    with served(good) as base:
        (tmp_path / "pyproject.toml").write_text(
            '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.10"\n'
            'dependencies = ["flash-attn3"]\n'
            f'[[tool.uv.index]]\nname = "fa"\nurl = "{base}stable/simple/"\ndefault = true\n'
            "[tool.uv]\noverride-dependencies = [\"torch; python_version < '3'\"]\n"
        )
        environment = fresh_environment(
            tmp_path / "fresh",
            interpreter=inspect_interpreter(PYTHON),
            torch_site=torch_folder(tmp_path / "torch"),
            index=f"{base}stable/simple/",
        )
        environment.shell("uv lock", cwd=tmp_path)
    lock = (tmp_path / "uv.lock").read_text()
    for wheel in manifest.on_channel("stable"):
        assert wheel.sha256 in lock
        assert wheel.upload_time.removesuffix("Z") in lock


def test_server_is_gone_when_the_block_ends(good: Path) -> None:
    with served(good) as base:
        pass
    with pytest.raises(requests.ConnectionError):
        requests.get(base, timeout=5)


def test_program_error_shows_the_command_and_its_last_lines(tmp_path: Path, torch_site: Path) -> None:
    environment = fresh_environment(
        tmp_path / "fresh",
        interpreter=inspect_interpreter(PYTHON),
        torch_site=torch_site,
        index="http://127.0.0.1:1/",
    )
    with pytest.raises(ProgramError, match=r"uv pip install --no-index nothing-of-the-kind ended with 1:\n"):
        environment.shell("uv pip install --no-index nothing-of-the-kind", cwd=tmp_path)
    assert subprocess.run([environment.python, "-c", "pass"], check=False).returncode == 0
