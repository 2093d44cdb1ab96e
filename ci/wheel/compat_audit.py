"""The audit of a compatibility wheel: pure Python, of the version of the one release that it requires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci.check import Check
from ci.project import compat_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.wheel.read import WheelFile

_MODULES = frozenset(
    {
        *("flash_attn_interface.py", "flash_attn_config.py"),
        *("flash_attn_3/__init__.py", "flash_attn_3/_C.py", "flash_attn_3/flash_attn_interface.py"),
        "flash_attn_3/py.typed",
    }
)
"""The modules that callers import by name; others match ``_OWN`` and are internal."""
_OWN = re.compile(r"flash_attn_3/\w+\.py")
_REQUIREMENT = re.compile(r"flash-attn3==([\w.+!]+)")
_DIST_INFO_FILES = ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")


def audit_compat(facts: WheelFile, members: Mapping[str, bytes], dist_info: str) -> tuple[Check, ...]:
    """Check the tags, requirements and members of a compatibility wheel whose RECORD was checked before."""
    return (
        _pure(facts, members[f"{dist_info}/WHEEL"]),
        _requirements(facts),
        _version(facts),
        _contents(members, dist_info),
    )


def _pure(facts: WheelFile, wheel_file: bytes) -> Check:
    ok = facts.tags == ("py3-none-any",) and b"Root-Is-Purelib: true" in wheel_file.splitlines()
    wrong = f"should be pure and py3-none-any, is {', '.join(facts.tags)}"
    return Check("pure", ok, "for any platform" if ok else wrong)


def _required_release(facts: WheelFile) -> str | None:
    """Return the release of flash-attn3 that is the one requirement; None for other requirements."""
    match = _REQUIREMENT.fullmatch(", ".join(facts.requires_dist))
    return match[1] if match else None


def _requirements(facts: WheelFile) -> Check:
    ok = _required_release(facts) is not None and facts.requires_python == ">=3.10"
    seen = f"{', '.join(facts.requires_dist)}; Python {facts.requires_python}"
    return Check("requirements", ok, seen if ok else f"{seen}; should be flash-attn3==RELEASE; Python >=3.10")


def _version(facts: WheelFile) -> Check:
    release = _required_release(facts)
    if release is None:
        return Check("version", ok=False, detail=f"{facts.version}; it requires no one release")
    try:
        wanted = compat_version(release)
    except ValueError as error:
        return Check("version", ok=False, detail=f"{facts.version}; {error}")
    ok = facts.version == wanted
    return Check("version", ok, wanted if ok else f"{facts.version}; should be {wanted}")


def _contents(members: Mapping[str, bytes], dist_info: str) -> Check:
    expected = _MODULES | {f"{dist_info}/{name}" for name in _DIST_INFO_FILES}
    missing = sorted(expected - members.keys())
    stray = sorted(name for name in members if name not in expected and not _OWN.fullmatch(name))
    seen = [f"lacks {', '.join(missing)}"] if missing else []
    seen += [f"should not hold {', '.join(stray)}"] if stray else []
    return Check("contents", not seen, "; ".join(seen) or f"{len(members)} files, none stray")
