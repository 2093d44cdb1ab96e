"""Puts an installed copy of the package first on the path, before any test module imports it.

FLASH_ATTN3_SITE names a folder into which a wheel was installed. Without it the host libraries are built
here, and the pack holds the real kernel table with placeholder cubins, which only a GPU would load.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci.payload import LIBRARY_NAMES, folder_digest, write_payload
from kernels.host.build import build_host
from kernels.pack import PackEntry
from kernels.variants import VARIANTS

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).parents[2]
VERSION = "0.1.0"
TARGET = "x86_64-linux-gnu.2.17"


def pytest_configure(config: pytest.Config) -> None:
    site = os.environ.get("FLASH_ATTN3_SITE") or str(_build_site(config.cache.mkdir("flash_attn3")))
    sys.path.insert(0, site)


def _build_site(work: Path) -> Path:
    libraries = work / folder_digest(REPOSITORY / "kernels" / "host")
    if not all((libraries / name).is_file() for name in LIBRARY_NAMES):
        fresh = work / f"building-{os.getpid()}"
        build_host(TARGET, fresh, VERSION)
        shutil.rmtree(libraries, ignore_errors=True)
        fresh.replace(libraries)
    site = work / "site"
    shutil.rmtree(site, ignore_errors=True)
    package = site / "flash_attn3"
    write_payload(
        package,
        entries=[
            PackEntry(variant, b"placeholder cubin of " + variant.name.encode(), "12.8")
            for variant in VARIANTS
        ],
        libraries={name: (libraries / name).read_bytes() for name in LIBRARY_NAMES},
        version=VERSION,
        platform="manylinux_2_17_x86_64",
        source_digest="0" * 64,
    )
    source = REPOSITORY / "flash_attn3"
    shutil.copytree(
        source, package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "lib", "build.json")
    )
    return site
