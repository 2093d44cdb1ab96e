"""Every check of the audit, run on a wheel with the damage that it looks for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import AuditFailed, CorruptWheel
from ci.stages.audit import SIZE_GOAL, SIZE_LIMIT, audit, require_passed
from kernels.build.pack import PackEntry, read_pack, write_pack
from kernels.build.version import version_of
from kernels.table import VARIANTS, select
from tests.conftest import FEW

if TYPE_CHECKING:
    from pathlib import Path

    from kernels.table import Variant

INFO = f"flash_attn3-{version_of(select(FEW))}.dist-info"
CORE = "flash_attn3/lib/libflash_attn3.so"
PACK = "flash_attn3/lib/kernels.fa3pack"


def read_members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rebuilt(wheel: Path, folder: Path, changes: dict[str, bytes | None], name: str | None = None) -> Path:
    """The wheel with members changed, added or (None) removed, and a RECORD that is right again."""
    members = {**read_members(wheel), **changes}
    kept = {key: data for key, data in members.items() if data is not None and key != f"{INFO}/RECORD"}
    rows = []
    for member, data in kept.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{member},sha256={digest},{len(data)}\n")
    kept[f"{INFO}/RECORD"] = "".join([*rows, f"{INFO}/RECORD,,\n"]).encode()
    path = folder / (name or wheel.name)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in kept.items():
            archive.writestr(member, data)
    return path


def failed(wheel: Path) -> dict[str, str]:
    """The failed checks of a wheel of a few kernels."""
    return {check.name: check.detail for check in audit(wheel, variants=select(FEW)) if not check.ok}


def test_the_wheel_of_this_tree_passes(whole_wheel: Path):
    checks = audit(whole_wheel)
    assert [check for check in checks if not check.ok] == []
    assert len(checks) == 12
    assert whole_wheel.stat().st_size <= SIZE_GOAL
    require_passed(whole_wheel, checks)


def test_a_wheel_that_lacks_kernels_is_seen(wheel: Path, few: tuple[Variant, ...]):
    """So are the GPUs and operators with worse code for it. As the trial that it is, it passes."""
    assert [check for check in audit(wheel) if not check.ok] == []
    lacking = {check.name: check.detail for check in audit(wheel, variants=VARIANTS) if not check.ok}
    absent = sorted({variant.name for variant in VARIANTS} - {variant.name for variant in few})
    assert list(lacking) == ["kernels", "gpus"]
    assert "fwd on sm_100 should be served by portable code, got ptx" in lacking["gpus"]
    assert "combine on sm_100 should be served by portable code, got none" in lacking["gpus"]
    assert "fwd on sm_90" not in lacking["gpus"]
    assert f"the pack lacks {', '.join(absent[:3])} and {len(absent) - 3} more" in lacking["kernels"]
    found = {check.name: check.detail for check in audit(wheel, variants=few[:-1]) if not check.ok}
    assert found["kernels"] == f"the pack should not hold {few[-1].name}"


def test_a_rebuilt_wheel_passes(wheel: Path, tmp_path: Path):
    """So a failure in the tests below comes from their change."""
    assert failed(rebuilt(wheel, tmp_path, {})) == {}


def test_a_failed_check_is_an_error_that_names_it(wheel: Path, tmp_path: Path):
    stray = rebuilt(wheel, tmp_path, {"tests/leftover.py": b""})
    with pytest.raises(
        AuditFailed, match=rf"{re.escape(wheel.name)}: contents: should not hold tests/leftover\.py"
    ):
        require_passed(stray, audit(stray))


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_a_truncated_wheel_is_corrupt(wheel: Path, tmp_path: Path, size: int):
    cut = tmp_path / wheel.name
    cut.write_bytes(wheel.read_bytes()[:size])
    with pytest.raises(CorruptWheel, match=re.escape(wheel.name)):
        audit(cut)


def test_one_flipped_bit_of_a_kernel_is_seen(wheel: Path, tmp_path: Path):
    data = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        middle = archive.getinfo(PACK).header_offset + archive.getinfo(PACK).compress_size // 2
    data[middle] ^= 1
    flipped = tmp_path / wheel.name
    flipped.write_bytes(bytes(data))
    with pytest.raises(CorruptWheel, match=re.escape(wheel.name)):
        audit(flipped)


def test_a_name_that_is_no_wheel_name_is_refused(wheel: Path, tmp_path: Path):
    with pytest.raises(CorruptWheel, match=r"wheel\.zip"):
        audit(rebuilt(wheel, tmp_path, {}, name="wheel.zip"))


def test_another_version_in_the_name_is_seen(wheel: Path, tmp_path: Path):
    name = wheel.name.replace("0.1.0", "0.2.0")
    with pytest.raises(CorruptWheel, match=r"0\.2\.0"):
        audit(rebuilt(wheel, tmp_path, {}, name=name))


def test_another_tag_in_the_name_is_seen(wheel: Path, tmp_path: Path):
    name = wheel.name.replace("manylinux2014_x86_64.manylinux_2_17", "manylinux_2_28")
    assert "manylinux_2_28" in failed(rebuilt(wheel, tmp_path, {}, name=name))["tags"]


def test_a_tag_with_an_older_glibc_than_the_symbols_need_is_seen(wheel: Path, tmp_path: Path):
    tags = {f"{INFO}/WHEEL": b"Root-Is-Purelib: false\nTag: py3-none-manylinux_2_1_x86_64\n"}
    old = rebuilt(
        wheel, tmp_path, tags, name=f"{INFO.removesuffix('.dist-info')}-py3-none-manylinux_2_1_x86_64.whl"
    )
    assert "libflash_attn3.so is x86_64 and needs GLIBC_2." in failed(old)["platform"]


def test_a_tag_of_another_processor_is_seen(wheel: Path, tmp_path: Path):
    tags = {f"{INFO}/WHEEL": read_members(wheel)[f"{INFO}/WHEEL"].replace(b"x86_64", b"aarch64")}
    other = rebuilt(wheel, tmp_path, tags, name=wheel.name.replace("x86_64", "aarch64"))
    assert "libflash_attn3.so is x86_64" in failed(other)["platform"]


def test_a_tag_without_a_glibc_is_seen(wheel: Path, tmp_path: Path):
    tag = {f"{INFO}/WHEEL": b"Root-Is-Purelib: false\nTag: py3-none-any\n"}
    bare = rebuilt(wheel, tmp_path, tag, name=f"{INFO.removesuffix('.dist-info')}-py3-none-any.whl")
    assert "should have one manylinux tag and libraries, got" in failed(bare)["platform"]


@pytest.mark.parametrize("line", [b"Requires-Dist: numpy\n", b"Requires-Dist: torch\n"])
def test_a_further_requirement_is_seen(wheel: Path, tmp_path: Path, line: bytes):
    metadata = read_members(wheel)[f"{INFO}/METADATA"]
    changes = {f"{INFO}/METADATA": metadata.replace(b"Requires-Dist:", line + b"Requires-Dist:", 1)}
    assert "requirements" in failed(rebuilt(wheel, tmp_path, changes))


@pytest.mark.parametrize("name", ["LICENSE", "THIRD_PARTY_NOTICES"])
def test_a_missing_licence_is_seen(wheel: Path, tmp_path: Path, name: str):
    found = failed(rebuilt(wheel, tmp_path, {f"{INFO}/licenses/{name}": None}))
    assert name in found["licences"]
    assert name in found["contents"]


def test_notices_without_cutlass_are_seen(wheel: Path, tmp_path: Path):
    changes = {f"{INFO}/licenses/THIRD_PARTY_NOTICES": b"none\n"}
    assert failed(rebuilt(wheel, tmp_path, changes)) == {
        "licences": "THIRD_PARTY_NOTICES does not name CUTLASS"
    }


@pytest.mark.parametrize("name", [CORE, PACK, "flash_attn3/build.json", "flash_attn3/py.typed"])
def test_a_missing_file_is_seen(wheel: Path, tmp_path: Path, name: str):
    assert name in failed(rebuilt(wheel, tmp_path, {name: None}))["contents"]


@pytest.mark.parametrize(
    ("size", "faults", "words"),
    [(0, [], "within the goal"), (SIZE_GOAL, [], "above the goal"), (SIZE_LIMIT, ["size"], "at most 100 MB")],
)
def test_the_size_is_checked_against_the_limit_and_compared_with_the_goal(
    wheel: Path, tmp_path: Path, size: int, faults: list[str], words: str
):
    large = rebuilt(wheel, tmp_path, {"flash_attn3/large.py": bytes(size)})
    assert list(failed(large)) == faults
    (detail,) = [check.detail for check in audit(large) if check.name == "size"]
    assert words in detail


def test_a_library_that_is_text_is_corrupt(wheel: Path, tmp_path: Path):
    with pytest.raises(CorruptWheel, match=rf"{CORE} is no ELF file"):
        audit(rebuilt(wheel, tmp_path, {CORE: b"not a library"}))


@pytest.fixture(scope="module")
def foreign_library(tmp_path_factory: pytest.TempPathFactory, toolkits: Path) -> bytes:
    """A library with a foreign export, a foreign dependency and a foreign search path."""
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(toolkits.parent / "zig")}
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "other.c").write_text("int other_function(void) { return 1; }\n")
    (folder / "main.c").write_text(
        "int other_function(void); int PyInit_x(void) { return other_function(); }\n"
    )
    compiler = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86_64-linux-gnu.2.17",
        "-shared",
        "-nostdlib",
    ]
    subprocess.run(
        [*compiler, "other.c", "-Wl,-soname,libother.so", "-o", "libother.so"],
        check=True,
        cwd=folder,
        env=environment,
    )
    link = ["-L.", "-lother", "-Wl,-rpath,/nowhere"]
    subprocess.run([*compiler, "main.c", *link, "-o", "main.so"], check=True, cwd=folder, env=environment)
    return (folder / "main.so").read_bytes()


@pytest.mark.slow
def test_a_foreign_library_fails_three_checks(wheel: Path, tmp_path: Path, foreign_library: bytes):
    found = failed(rebuilt(wheel, tmp_path, {CORE: foreign_library}))
    assert "PyInit_x" in found["exports"]
    assert "libflash_attn3.so needs libother.so" in found["needed"]
    assert "libflash_attn3.so searches /nowhere" in found["rpath"]


def test_a_pack_with_another_code_than_the_table_is_seen(wheel: Path, tmp_path: Path):
    """As portable code, a kernel would run on later minor versions, which lack its instructions."""
    images = tmp_path / "pack"
    images.write_bytes(read_members(wheel)[PACK])
    known = {record.name: record for record in read_pack(images)}
    entries = [
        PackEntry(replace(row, sm=row.sm.rstrip("a")), known[row.name].image, known[row.name].toolkit)
        for row in select(FEW)
    ]
    write_pack(entries, images)
    found = failed(rebuilt(wheel, tmp_path, {PACK: images.read_bytes()}))
    assert found == {"gpus": "fwd on sm_90 should be served by exact code, got portable"}


def test_a_pack_that_serves_one_operator_worse_is_seen(wheel: Path, tmp_path: Path):
    """Forward has all of its kernels, so a check of forward alone would pass."""
    images = tmp_path / "pack"
    images.write_bytes(read_members(wheel)[PACK])
    known = {record.name: record for record in read_pack(images)}
    entries = [
        PackEntry(
            replace(row, sm="89") if row.op == "combine" else row,
            known[row.name].image,
            known[row.name].toolkit,
        )
        for row in select(FEW)
    ]
    write_pack(entries, images)
    found = failed(rebuilt(wheel, tmp_path, {PACK: images.read_bytes()}))
    assert list(found) == ["gpus"]
    assert found["gpus"].startswith("combine on sm_80 should be served by portable code, got none")
    assert "fwd" not in found["gpus"]


def test_a_damaged_pack_is_seen(wheel: Path, tmp_path: Path):
    pack = read_members(wheel)[PACK]
    assert "altered" in failed(rebuilt(wheel, tmp_path, {PACK: pack[:-1] + b"?"}))["kernels"]
    assert "bytes" in failed(rebuilt(wheel, tmp_path, {PACK: pack[:-1]}))["kernels"]


@pytest.mark.parametrize("key", ["version", "toolkits", "kernels", "platform"])
def test_a_build_file_that_disagrees_is_seen(wheel: Path, tmp_path: Path, key: str):
    build = json.loads(read_members(wheel)["flash_attn3/build.json"])
    changes = {"flash_attn3/build.json": json.dumps({**build, key: None}).encode()}
    assert failed(rebuilt(wheel, tmp_path, changes)) == {"kernels": f"build.json disagrees about {key}"}
