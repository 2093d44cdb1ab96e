"""What the tests of kernels and of their host share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the C++ compiler keeps what it makes for itself."""
    return tmp_path_factory.mktemp("zig-cache")
