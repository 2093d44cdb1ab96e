"""The runtime against a driver double: what it asks of CUDA, and what it does when CUDA refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.host import scenarios
from tests.kernels.host.scenarios import SCENARIOS

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, libraries: Path, fake_driver_folder: Path, pack: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", scenarios.__name__, name, str(libraries / "libflash_attn3.so"), str(pack)],
        cwd=REPOSITORY,
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver_folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
