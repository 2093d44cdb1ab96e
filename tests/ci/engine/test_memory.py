"""The free memory, on this machine and in the folder of a control group as the system lays it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from ci.engine.memory import available_memory

if TYPE_CHECKING:
    from pathlib import Path


def group(folder: Path, limit: str, used: int, cached: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used}\ninactive_file {cached}\nactive_file 7\n")
    return folder


def test_without_a_container_it_is_the_machines():
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_a_container_has_what_its_limit_leaves_and_files_that_can_be_dropped(tmp_path: Path):
    assert available_memory(group(tmp_path, "50000000", 30000000, 4000000)) == 24000000
    assert available_memory(group(tmp_path, "50000000", 60000000, 0)) == 0


def test_a_container_without_a_limit_has_the_machines(tmp_path: Path):
    whole = psutil.virtual_memory().available
    assert available_memory(group(tmp_path, "max", 30000000, 0)) == pytest.approx(whole, rel=0.5)
    assert available_memory(tmp_path / "absent") == pytest.approx(whole, rel=0.5)
