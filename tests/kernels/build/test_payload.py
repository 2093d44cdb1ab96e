"""What decides the bytes of the host libraries, and so when they are built again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kernels.build import payload
from kernels.build.host import HOST_DIR, SHARED_HEADERS

if TYPE_CHECKING:
    from pathlib import Path

TARGET = "x86_64-linux-gnu.2.17"


@pytest.mark.parametrize("header", SHARED_HEADERS, ids=lambda path: path.name)
def test_the_digest_of_the_host_libraries_covers_what_they_share_with_the_kernels(
    header: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = payload.host_digest(TARGET, "1.0")
    assert payload.host_digest(TARGET, "1.0") == before
    changed = tmp_path / header.name
    changed.write_bytes(header.read_bytes() + b"// one more line\n")
    others = [path for path in SHARED_HEADERS if path != header]
    monkeypatch.setattr(payload, "SHARED_HEADERS", (*others, changed))
    assert payload.host_digest(TARGET, "1.0") != before


def test_the_host_libraries_include_nothing_else_from_outside_their_folder():
    sources = [path for path in HOST_DIR.rglob("*") if path.suffix in {".cpp", ".h"}]
    included = {
        name for path in sources for name in re.findall(r'#include "(.*)"', path.read_text(encoding="utf-8"))
    }
    own = {path.relative_to(HOST_DIR).as_posix() for path in sources}
    device = HOST_DIR.parent / "device"
    assert included - own == {path.relative_to(device).as_posix() for path in SHARED_HEADERS}
