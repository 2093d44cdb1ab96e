"""What decides the bytes of the host libraries, and so when they are built again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci import payload
from kernels.host.build import HOST_DIR, SHARED_HEADER

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TARGET = "x86_64-linux-gnu.2.17"


def test_the_digest_of_the_host_libraries_covers_the_header_that_they_share_with_the_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = payload.host_digest(TARGET, "1.0")
    assert payload.host_digest(TARGET, "1.0") == before
    changed = tmp_path / SHARED_HEADER.name
    changed.write_bytes(SHARED_HEADER.read_bytes() + b"// one more line\n")
    monkeypatch.setattr(payload, "SHARED_HEADER", changed)
    assert payload.host_digest(TARGET, "1.0") != before


def test_the_host_libraries_include_nothing_else_from_outside_their_folder():
    sources = [path for path in HOST_DIR.iterdir() if path.suffix in {".cpp", ".h"}]
    included = {
        (path.parent / name).resolve()
        for path in sources
        for name in re.findall(r'#include "(.*)"', path.read_text(encoding="utf-8"))
    }
    assert included - {path.resolve() for path in sources} == {SHARED_HEADER.resolve()}
