"""The audit stage: check a wheel by its bytes alone, as a list of named checks."""

from __future__ import annotations

import re
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from ci.check import Check
from ci.errors import AuditFailed, CorruptWheel
from ci.wheel.compat_audit import audit_compat
from ci.wheel.elf import SharedLibrary, read_shared_library
from ci.wheel.read import WheelFile, read_wheel
from index_site.projects import COMPAT_PROJECT
from kernels.build.pack import PackRecord, read_pack
from kernels.build.payload import LIBRARY_NAMES, PACK_NAME, variant_fields
from kernels.build.version import is_trial
from kernels.errors import CorruptPackError
from kernels.table import VARIANTS
from matrix.model import read_matrix
from matrix.serving import CODES, serving, targets_by_operator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernels.table import Variant
    from matrix.serving import Code, Serving

SIZE_GOAL = 20_000_000
SIZE_LIMIT = 100_000_000
"""Largest wheel in bytes that PyPI accepts by default."""
_SHOWN = 3
_SYSTEM_LIBRARIES = re.compile(r"(libc|libm|libdl|libpthread|librt)\.so\.\d+|ld-linux-[a-z0-9_-]+\.so\.\d+")
_OWN_LIBRARIES = frozenset({"libtorch_cpu.so", "libflash_attn3.so"})
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_OLDER_NAME = ("manylinux2014_", "manylinux_2_17_")
_DIST_INFO_FILES = frozenset(
    {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE", "licenses/THIRD_PARTY_NOTICES"}
)


def audit(wheel: Path, *, variants: Sequence[Variant] | None = None) -> tuple[Check, ...]:
    """Check a wheel of this tree and return every check with its finding.

    Args:
        wheel: the file.
        variants: the kernels that it should hold, and no others; None for the table, or for those that
            a trial lists. Unused for a compatibility wheel, which holds none.

    Raises:
        CorruptWheel: the file is not a whole wheel, a member does not match RECORD, or a library is not ELF.
    """
    facts = read_wheel(wheel)
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    dist_info = next(name.split("/")[0] for name in members if name.endswith(".dist-info/RECORD"))
    sound = (
        Check("record", ok=True, detail=f"{len(members)} files match their hashes"),
        _tags(facts, members[f"{dist_info}/WHEEL"]),
    )
    if facts.project == COMPAT_PROJECT:
        return *sound, *audit_compat(facts, members, dist_info)
    libraries = {
        name.rsplit("/", 1)[1]: _library(wheel, name, data)
        for name, data in members.items()
        if name.endswith(".so")
    }
    return (
        *sound,
        _requirements(facts),
        _licences(members, dist_info),
        _contents(members, dist_info),
        _size(facts),
        _platform(facts, libraries),
        _needed(libraries),
        _rpath(libraries),
        _exports(libraries),
        *_pack(facts, members, _expected(facts) if variants is None else variants),
    )


def require_passed(wheel: Path, checks: tuple[Check, ...]) -> None:
    """Refuse a wheel that failed a check.

    Raises:
        AuditFailed: a check failed; the text lists each failed check with its finding.
    """
    failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    if failed:
        raise AuditFailed(f"{wheel.name}: {failed}")


def _library(wheel: Path, name: str, data: bytes) -> SharedLibrary:
    try:
        return read_shared_library(data)
    except ValueError as error:
        raise CorruptWheel(f"{wheel.name}: {name} {error}") from error


def _tags(facts: WheelFile, wheel_file: bytes) -> Check:
    inside = sorted(BytesParser().parsebytes(wheel_file).get_all("Tag", []))
    ok = inside == list(facts.tags)
    return Check(
        "tags", ok, ", ".join(inside) + ("" if ok else f" in WHEEL, {', '.join(facts.tags)} in the name")
    )


def _requirements(facts: WheelFile) -> Check:
    names = [Requirement(line).name for line in facts.requires_dist]
    ok = names == ["torch"] and facts.requires_python == ">=3.10"
    return Check("requirements", ok, f"{', '.join(facts.requires_dist)}; Python {facts.requires_python}")


def _licences(members: Mapping[str, bytes], dist_info: str) -> Check:
    names = (f"{dist_info}/licenses/LICENSE", f"{dist_info}/licenses/THIRD_PARTY_NOTICES")
    missing = [name for name in names if not members.get(name)]
    if not missing and b"CUTLASS" not in members[names[1]]:
        return Check("licences", ok=False, detail="THIRD_PARTY_NOTICES does not name CUTLASS")
    return Check(
        "licences", not missing, f"missing {missing}" if missing else "LICENSE and THIRD_PARTY_NOTICES"
    )


def _contents(members: Mapping[str, bytes], dist_info: str) -> Check:
    expected = {f"flash_attn3/lib/{name}" for name in (*LIBRARY_NAMES, PACK_NAME)}
    expected |= {"flash_attn3/build.json", "flash_attn3/py.typed", "flash_attn3/__init__.py"}
    expected |= {f"{dist_info}/{name}" for name in _DIST_INFO_FILES}
    missing = sorted(expected - members.keys())
    python = re.compile(r"flash_attn3/(\w+/)*\w+\.py")
    stray = sorted(name for name in members if name not in expected and not python.fullmatch(name))
    seen = [f"lacks {', '.join(missing)}"] if missing else []
    seen += [f"should not hold {', '.join(stray)}"] if stray else []
    return Check("contents", not seen, "; ".join(seen) or f"{len(members)} files, none stray")


def _size(facts: WheelFile) -> Check:
    relation = "within" if facts.size <= SIZE_GOAL else "above"
    seen = f"{facts.size / 1e6:.1f} MB, {relation} the goal of {SIZE_GOAL / 1e6:.0f} MB"
    return Check("size", facts.size <= SIZE_LIMIT, f"{seen}; at most {SIZE_LIMIT / 1e6:.0f} MB")


def _platform(facts: WheelFile, libraries: Mapping[str, SharedLibrary]) -> Check:
    """Compare the tag (oldest glibc, processor) with the libraries' symbol versions and machine."""
    _, _, _, tags = parse_wheel_filename(facts.filename)
    tagged = [_MANYLINUX.fullmatch(name) for name in {tag.platform.replace(*_OLDER_NAME) for tag in tags}]
    if len(tagged) != 1 or tagged[0] is None or not libraries:
        return Check(
            "platform", ok=False, detail=f"should have one manylinux tag and libraries, got {facts.tags}"
        )
    major, minor, machine = tagged[0].groups()
    wrong = [
        f"{name} is {library.machine} and needs GLIBC_{library.glibc[0]}.{library.glibc[1]}"
        for name, library in libraries.items()
        if library.machine != machine or library.glibc > (int(major), int(minor))
    ]
    newest = max(library.glibc for library in libraries.values())
    seen = f"the libraries need GLIBC_{newest[0]}.{newest[1]} on {machine}"
    return Check("platform", not wrong, "; ".join(wrong) or f"{seen}; the tag allows {major}.{minor}")


def _needed(libraries: Mapping[str, SharedLibrary]) -> Check:
    wrong = [
        f"{name} needs {needed}"
        for name, library in libraries.items()
        for needed in library.needed
        if needed not in _OWN_LIBRARIES and not _SYSTEM_LIBRARIES.fullmatch(needed)
    ]
    needed = sorted({needed for library in libraries.values() for needed in library.needed})
    return Check("needed", not wrong, "; ".join(wrong) or ", ".join(needed))


def _rpath(libraries: Mapping[str, SharedLibrary]) -> Check:
    found = [f"{name} searches {path}" for name, library in libraries.items() for path in library.rpaths]
    wrong = [text for text in found if not text.endswith(" searches $ORIGIN")]
    return Check("rpath", not wrong, "; ".join(wrong) or "none but $ORIGIN")


def _exports(libraries: Mapping[str, SharedLibrary]) -> Check:
    """Allow the C ABI only: another name could collide with another library in the process."""
    core = libraries.get("libflash_attn3.so")
    names = core.exports if core else ()
    wrong = [name for name in names if not name.startswith("fa3_")]
    if not names:
        return Check("exports", ok=False, detail="libflash_attn3.so exports nothing")
    return Check(
        "exports",
        not wrong,
        f"should not export {', '.join(wrong)}" if wrong else f"{len(names)} fa3_ functions",
    )


def _expected(facts: WheelFile) -> tuple[Variant, ...]:
    """Return the kernels of the table; for a trial, those of them that it lists."""
    listed = facts.build and facts.build.get("toolkits")
    if not is_trial(facts.version) or not isinstance(listed, dict):
        return VARIANTS
    return tuple(variant for variant in VARIANTS if variant.name in listed)


def _pack(facts: WheelFile, members: Mapping[str, bytes], variants: Sequence[Variant]) -> tuple[Check, ...]:
    try:
        records = _read_pack(members.get(f"flash_attn3/lib/{PACK_NAME}", b""))
    except CorruptPackError as error:
        return (Check("kernels", ok=False, detail=str(error)),)
    return _kernels(facts, records, variants), _gpus(records, variants)


def _kernels(facts: WheelFile, records: Sequence[PackRecord], variants: Sequence[Variant]) -> Check:
    """Compare the pack and ``build.json`` with the kernel table."""
    expected = sorted(variant.name for variant in variants)
    names = sorted(record.name for record in records)
    if names != expected:
        missing = sorted(set(expected) - set(names))
        stray = sorted(set(names) - set(expected))
        seen = [f"lacks {_some(missing)}"] if missing else []
        seen += [f"should not hold {_some(stray)}"] if stray else []
        return Check("kernels", ok=False, detail=f"the pack {' and '.join(seen) or 'holds a kernel twice'}")
    build = facts.build or {}
    expected_build = {
        "version": facts.version,
        "toolkits": {record.name: record.toolkit for record in records},
        "kernels": [variant_fields(variant) for variant in variants],
        "platform": facts.tags[-1].rsplit("-", 1)[-1],  # the last: an older name of it sorts before it
    }
    # JSON has lists for tuples, so both sides are converted to lists.
    wrong = [key for key, value in expected_build.items() if _plain(build.get(key)) != _plain(value)]
    if wrong:
        return Check("kernels", ok=False, detail=f"build.json disagrees about {', '.join(wrong)}")
    return Check("kernels", ok=True, detail=f"{len(names)} kernels, all as in the table")


def _gpus(records: Sequence[PackRecord], variants: Sequence[Variant]) -> Check:
    """Compare which code serves each operator on each GPU of the matrix: by the pack, and by the table."""
    held: dict[str, set[tuple[int, Code]]] = {}
    for record in records:
        held.setdefault(record.op, set()).add((record.sm, CODES[record.code]))
    expected = targets_by_operator(variants)
    names = [sm.name for sm in read_matrix().sm]
    found = {name: serving(name, {**dict.fromkeys(expected, ()), **held}) for name in names}
    wrong = [
        f"{op} on {_gpu(name)} should be served by {code} code, got {found[name][op] or 'none'}"
        for name in names
        for op, code in serving(name, expected).items()
        if code and code != found[name][op]
    ]
    seen = ", ".join(f"{_gpu(name)} {_codes(found[name])}" for name in names if any(found[name].values()))
    return Check("gpus", not wrong, "; ".join(wrong) or seen)


def _gpu(sm: str) -> str:
    return f"sm_{sm}" if sm.isdigit() else f"{sm} GPUs"


def _codes(served: Serving) -> str:
    """``{"fwd": "exact", "combine": None}`` -> ``fwd exact/combine none``."""
    return "/".join(f"{op} {code or 'none'}" for op, code in served.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_pack(data: bytes) -> tuple[PackRecord, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PACK_NAME
        path.write_bytes(data)
        return read_pack(path)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
