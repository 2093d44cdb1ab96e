"""The compatibility wheel on an index: its channel is that of the flash-attn3 that it needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import ReportMismatch, UnfitWheel, VerifyFailed
from ci.platforms.environment import run
from ci.platforms.venv import VirtualEnvironment
from ci.project import compat_version
from ci.stages.audit import audit
from ci.stages.listing import Context
from ci.stages.publish import publish, yank
from ci.stages.trial import trial_environment
from ci.stages.verify import verify
from index_site.errors import CorruptManifest
from index_site.manifest import dump_manifest, parse_manifest, read_manifest
from kernels.build.version import RELEASE
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report, torch_folder, write_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Manifest, Wheel

PYTHON = Path(sys.executable)
VERSION = RELEASE
COMPAT_VERSION = compat_version(VERSION)
UNMET = f"no wheel of flash-attn3=={VERSION}, which it needs, is stable"


def _put(site: Path, *wheels: Path, reports: Sequence[Path] = (), **options: object) -> Manifest:
    return publish(
        wheels=wheels, reports=reports, site=site, now=NOW, progress=Quiet(), policy=TRUSTING, **options
    )


def _compat(manifest: Manifest) -> Wheel:
    (wheel,) = (wheel for wheel in manifest.wheels if wheel.project == "flash-attn-3")
    return wheel


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """A flash_attn3 wheel of the same version."""
    return flash_wheel(tmp_path / "dist", version=VERSION)


@pytest.fixture
def passed(tmp_path: Path, main: Path) -> Path:
    """A report that proves it."""
    return report(tmp_path / "passed.json", main)


def test_alone_it_is_a_candidate(tmp_path: Path, compat_wheel: Path):
    wheel = _compat(_put(tmp_path / "site", compat_wheel))
    assert (wheel.channel, wheel.channel_reason, wheel.proofs) == ("candidate", UNMET, ())


@pytest.mark.parametrize("together", [False, True])
def test_it_is_stable_where_what_it_needs_is(
    tmp_path: Path, compat_wheel: Path, main: Path, passed: Path, together: bool
):
    site = tmp_path / "site"
    if together:
        manifest = _put(site, main, compat_wheel, reports=[passed])
    else:
        assert _compat(_put(site, main, compat_wheel)).channel_reason == UNMET
        manifest = _put(site, main, reports=[passed])  # the proof comes later, and takes both along
    wheel = _compat(manifest)
    assert (wheel.channel, wheel.channel_reason) == ("stable", "")
    assert read_manifest(site) == manifest


def test_another_version_does_not_help(tmp_path: Path, compat_wheel: Path):
    other = flash_wheel(tmp_path / "dist", version="9.9.9")
    manifest = _put(tmp_path / "site", other, compat_wheel, reports=[report(tmp_path / "r.json", other)])
    assert _compat(manifest).channel_reason == UNMET


def test_a_publisher_cannot_insist(tmp_path: Path, compat_wheel: Path):
    with pytest.raises(ReportMismatch, match=f"cannot go to stable: {UNMET}"):
        _put(tmp_path / "site", compat_wheel, channel="stable")


def test_it_can_be_held_back_and_stays_there(tmp_path: Path, compat_wheel: Path, main: Path, passed: Path):
    site = tmp_path / "site"
    _put(site, main, reports=[passed])
    held = _compat(_put(site, compat_wheel, channel="candidate"))
    assert held.channel_reason == "it is held back by its publisher"
    assert _compat(_put(site, flash_wheel(tmp_path / "dist", version="9.9.9"))) == held
    assert _compat(_put(site, compat_wheel, channel="stable")).channel == "stable"


def test_a_failed_audit_keeps_it_a_candidate(tmp_path: Path, compat_wheel: Path, main: Path, passed: Path):
    binary = write_wheel(
        tmp_path / "other",
        name=compat_wheel.name,
        members={**_metadata(), "flash_attn_3/_C.so": b"\x7fELF"},
    )
    context = Context(audits={binary.name: audit(binary)})
    with pytest.raises(UnfitWheel, match="its audit failed: contents: "):
        _put(tmp_path / "site", main, binary, reports=[passed], context=context)
    wheel = _compat(_put(tmp_path / "site", main, binary, reports=[passed], context=context, force=True))
    assert (wheel.channel, wheel.is_shown) == ("candidate", False)
    assert wheel.channel_reason.startswith("its audit failed: contents: ")


def _metadata() -> dict[str, bytes]:
    info = f"flash_attn_3-{COMPAT_VERSION}.dist-info"
    metadata = (
        f"Metadata-Version: 2.4\nName: flash-attn-3\nVersion: {COMPAT_VERSION}\nRequires-Python: >=3.10\n"
        f"Requires-Dist: flash-attn3=={VERSION}\n"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}


def test_it_is_yanked_with_what_it_needs(tmp_path: Path, compat_wheel: Path, main: Path, passed: Path):
    site = tmp_path / "site"
    _put(site, main, compat_wheel, reports=[passed])
    yanked = _compat(yank(site=site, patterns=["flash_attn3-*"], reason="wrong", progress=Quiet()))
    assert (yanked.channel, yanked.yanked) == ("stable", f"flash-attn3=={VERSION} is yanked")
    assert _compat(yank(site=site, patterns=["flash_attn3-*"], reason=None, progress=Quiet())).yanked is None


def test_its_own_yank_stays(tmp_path: Path, compat_wheel: Path, main: Path, passed: Path):
    site = tmp_path / "site"
    _put(site, main, compat_wheel, reports=[passed])
    yank(site=site, patterns=["flash_attn_3-*"], reason="a module is missing", progress=Quiet())
    yank(site=site, patterns=["flash_attn3-*"], reason="wrong", progress=Quiet())
    assert (
        _compat(yank(site=site, patterns=["flash_attn3-*"], reason=None, progress=Quiet())).yanked
        == "a module is missing"
    )


def test_a_manifest_that_lists_it_as_stable_alone_is_refused(
    tmp_path: Path, compat_wheel: Path, main: Path, passed: Path
):
    manifest = _put(tmp_path / "site", main, compat_wheel, reports=[passed])
    alone = manifest.model_copy(update={"wheels": (_compat(manifest),)})
    with pytest.raises(CorruptManifest, match=f"is on stable without flash-attn3=={VERSION}"):
        parse_manifest(dump_manifest(alone), name="manifest.json")


def test_the_pages_show_it_beside_the_project(tmp_path: Path, compat_wheel: Path, main: Path, passed: Path):
    site = tmp_path / "site"
    _put(site, main, reports=[passed])
    assert 'data-command="compat"' not in (site / "index.html").read_text()
    _put(site, compat_wheel)
    for channel in ("stable", "candidate"):
        root = (site / channel / "simple" / "index.html").read_text()
        assert '<a href="flash-attn-3/">flash-attn-3</a>' in root
        assert '<a href="flash-attn3/">flash-attn3</a>' in root
        page = (site / channel / "simple" / "flash-attn-3" / "index.html").read_text()
        assert page.count(".whl</a>") == 1
        assert f">{compat_wheel.name}</a>" in page
        assert f"/files/{compat_wheel.name.replace('+', '%2B')}#sha256=" in page
    assert 'data-command="compat"' in (site / "index.html").read_text()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small wheel in the place of the real one, whose modules import like it those of flash_attn3."""
    members = _modules()
    name = f"flash_attn_3-{COMPAT_VERSION}-py3-none-any.whl"
    return write_wheel(tmp_path / "small", name=name, members=members)


def _modules() -> dict[str, bytes]:
    return {
        **_metadata(),
        "flash_attn_interface.py": b"import flash_attn3, flash_attn_3._C\n",
        "flash_attn_3/__init__.py": b"",
        "flash_attn_3/_C.py": b"import flash_attn3\n",
    }


@pytest.mark.slow
def test_verify_installs_it_as_the_page_says(tmp_path: Path, main: Path, passed: Path, small: Path):
    site, torch_site = tmp_path / "site", torch_folder(tmp_path / "torch")
    _put(site, main, small, reports=[passed])
    checks = verify(site=site, python=PYTHON, progress=Quiet(), torch_site=torch_site)
    details = {check.name: check.detail for check in checks}
    assert details["stable: pip, for code that imports flash_attn_interface"] == (
        f"installed and imported flash_attn3, flash_attn_interface, flash_attn_3._C {VERSION}"
    )


@pytest.mark.slow
def test_verify_fails_where_its_modules_do_not_import(tmp_path: Path, main: Path, passed: Path, small: Path):
    members = {**_modules(), "flash_attn_3/_C.py": b"import no_such_module\n"}
    broken = write_wheel(tmp_path / "broken", name=small.name, members=members)
    _put(tmp_path / "site", main, broken, reports=[passed])
    with pytest.raises(VerifyFailed, match="1 of 14 checks failed") as caught:
        verify(
            site=tmp_path / "site",
            python=PYTHON,
            progress=Quiet(),
            torch_site=torch_folder(tmp_path / "torch"),
        )
    assert "No module named 'no_such_module'" in str(caught.value)


@pytest.mark.slow
def test_a_run_installs_it_on_request_alone(tmp_path: Path, main: Path, passed: Path, small: Path):
    _put(tmp_path / "site", main, small, reports=[passed])
    page = tmp_path / "site" / "stable" / "index.html"
    torch_site = torch_folder(tmp_path / "torch")
    environment = VirtualEnvironment(tmp_path / "env")
    trial = trial_environment(
        environment, python=PYTHON, torch="torch", torch_site=torch_site, progress=Quiet()
    )
    code = "import importlib.util as u; print([u.find_spec(n) is not None for n in NAMES])"
    names = ("flash_attn3", "flash_attn_interface", "flash_attn_3")
    alone = {f"flash-attn3=={VERSION}": "flash_attn3"}
    both = {**alone, f"flash-attn-3=={COMPAT_VERSION}": "flash_attn_interface"}
    for requirements in (alone, both, alone):
        trial.install(requirements, page)
        found = run(
            [trial.environment.python, "-I", "-c", code.replace("NAMES", repr(names))], env=os.environ
        )
        asked = requirements is both
        assert found.strip() == str([True, asked, asked])
