"""The compatibility wheel as a file: its contents, and what its audit refuses."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING

import pytest

from ci.errors import AuditFailed
from ci.project import ROOT, compat_version
from ci.stages.audit import audit, require_passed
from ci.wheel.compat_wheel import make_compat_wheel
from ci.wheel.read import read_wheel
from kernels.build.version import RELEASE
from tests.quiet import Quiet
from tests.site_kit import write_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VERSION = compat_version(RELEASE)
INFO = f"flash_attn_3-{VERSION}.dist-info"


def _members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def _changed(wheel: Path, folder: Path, changes: Mapping[str, bytes | None]) -> Path:
    """Return a wheel that differs in some members; None leaves one out."""
    members = {name: data for name, data in {**_members(wheel), **changes}.items() if data is not None}
    return write_wheel(folder, name=wheel.name, members=members)


def test_it_is_pure_and_needs_exactly_its_own_release(compat_wheel: Path):
    facts = read_wheel(compat_wheel)
    assert facts.filename == f"flash_attn_3-{VERSION}-py3-none-any.whl"
    assert (facts.project, facts.version, facts.requires_python) == ("flash-attn-3", VERSION, ">=3.10")
    assert facts.requires_dist == (f"flash-attn3=={RELEASE}",)
    assert facts.build is None


def test_it_holds_the_modules_of_the_tree(compat_wheel: Path):
    source = ROOT / "compat"
    ours = {path.relative_to(source).as_posix() for path in source.rglob("*.py")} - {"hatch_metadata.py"}
    members = _members(compat_wheel)
    assert {name for name in members if name.endswith(".py")} == ours
    assert all(members[name] == (source / name).read_bytes() for name in ours)
    assert members[f"{INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_its_bytes_are_the_same_again(compat_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    again = make_compat_wheel(tmp_path, Quiet())
    assert again.read_bytes() == compat_wheel.read_bytes()
    assert again == tmp_path / "dist" / compat_wheel.name


def test_it_passes_its_audit(compat_wheel: Path):
    checks = audit(compat_wheel)
    require_passed(compat_wheel, checks)
    names = ["record", "tags", "pure", "requirements", "version", "contents"]
    assert [check.name for check in checks] == names


def _metadata(wheel: Path, old: bytes, new: bytes) -> dict[str, bytes]:
    name = f"{INFO}/METADATA"
    before = _members(wheel)[name]
    assert old in before
    return {name: before.replace(old, new)}


@pytest.mark.parametrize(
    ("member", "data", "failure"),
    [
        ("flash_attn_3/_C.abi3.so", b"\x7fELF", "contents: should not hold flash_attn_3/_C.abi3.so"),
        ("flash_attn3/__init__.py", b"", "contents: should not hold flash_attn3/__init__.py"),
        ("flash_attn_3/_C.py", None, "contents: lacks flash_attn_3/_C.py"),
        ("flash_attn_interface.py", None, "contents: lacks flash_attn_interface.py"),
        (f"{INFO}/licenses/LICENSE", None, f"contents: lacks {INFO}/licenses/LICENSE"),
    ],
)
def test_audit_refuses_other_contents(
    compat_wheel: Path, tmp_path: Path, member: str, data: bytes | None, failure: str
):
    wheel = _changed(compat_wheel, tmp_path, {member: data})
    with pytest.raises(AuditFailed) as caught:
        require_passed(wheel, audit(wheel))
    assert str(caught.value) == f"{wheel.name}: {failure}"


@pytest.mark.parametrize("other", ["flash-attn3>=0.1", "flash-attn3==0.1.0,!=0.2", "torch"])
def test_audit_refuses_another_requirement(compat_wheel: Path, tmp_path: Path, other: str):
    changes = _metadata(compat_wheel, f"flash-attn3=={RELEASE}".encode(), other.encode())
    wheel = _changed(compat_wheel, tmp_path, changes)
    with pytest.raises(AuditFailed, match=r"requirements: .*should be flash-attn3==RELEASE"):
        require_passed(wheel, audit(wheel))


@pytest.mark.parametrize(
    ("required", "reason"), [("9.9", r"should be 3\.0\.0\+9\.9"), ("0.2rc1", "version must be numbers")]
)
def test_audit_refuses_the_version_of_another_release(
    compat_wheel: Path, tmp_path: Path, required: str, reason: str
):
    changes = _metadata(compat_wheel, f"flash-attn3=={RELEASE}".encode(), f"flash-attn3=={required}".encode())
    wheel = _changed(compat_wheel, tmp_path, changes)
    with pytest.raises(AuditFailed, match=rf"version: {re.escape(VERSION)}; {reason}"):
        require_passed(wheel, audit(wheel))


def test_audit_refuses_a_wheel_that_is_not_pure(compat_wheel: Path, tmp_path: Path):
    name = f"{INFO}/WHEEL"
    text = _members(compat_wheel)[name].replace(b"Purelib: true", b"Purelib: false")
    wheel = _changed(compat_wheel, tmp_path, {name: text})
    with pytest.raises(AuditFailed, match="pure: should be pure and py3-none-any"):
        require_passed(wheel, audit(wheel))
