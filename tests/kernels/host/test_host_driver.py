"""The runtime against a driver double: what it asks of CUDA, and what it does when CUDA refuses."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scenarios

NAMES = [
    name
    for name, function in inspect.getmembers(scenarios, inspect.isfunction)
    if tuple(inspect.signature(function).parameters) == ("api", "fake", "pack")
]


def test_scenarios_are_found() -> None:
    assert len(NAMES) > 25


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name: str, libraries: Path, fake_driver_folder: Path, pack: Path) -> None:
    done = subprocess.run(
        [sys.executable, scenarios.__file__, name, str(libraries / "libflash_attn3.so"), str(pack)],
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver_folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
