"""The audit of a compatibility wheel: pure Python, requiring flash-attn3 of exactly its own version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci.check import Check

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
_DIST_INFO_FILES = ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")


def audit_compat(facts: WheelFile, members: Mapping[str, bytes], dist_info: str) -> tuple[Check, ...]:
    """Check the tags, requirements and members of a compatibility wheel whose RECORD was checked before."""
    return _pure(facts, members[f"{dist_info}/WHEEL"]), _requirements(facts), _contents(members, dist_info)


def _pure(facts: WheelFile, wheel_file: bytes) -> Check:
    ok = facts.tags == ("py3-none-any",) and b"Root-Is-Purelib: true" in wheel_file.splitlines()
    wrong = f"should be pure and py3-none-any, is {', '.join(facts.tags)}"
    return Check("pure", ok, "for any platform" if ok else wrong)


def _requirements(facts: WheelFile) -> Check:
    wanted = (f"flash-attn3=={facts.version}",)
    ok = facts.requires_dist == wanted and facts.requires_python == ">=3.10"
    seen = f"{', '.join(facts.requires_dist)}; Python {facts.requires_python}"
    return Check("requirements", ok, seen if ok else f"{seen}; should be {wanted[0]}; Python >=3.10")


def _contents(members: Mapping[str, bytes], dist_info: str) -> Check:
    expected = _MODULES | {f"{dist_info}/{name}" for name in _DIST_INFO_FILES}
    missing = sorted(expected - members.keys())
    stray = sorted(name for name in members if name not in expected and not _OWN.fullmatch(name))
    seen = [f"lacks {', '.join(missing)}"] if missing else []
    seen += [f"should not hold {', '.join(stray)}"] if stray else []
    return Check("contents", not seen, "; ".join(seen) or f"{len(members)} files, none stray")
