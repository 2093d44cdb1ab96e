"""Which copy of the package the tests import.

FLASH_ATTN3_SITE names a folder into which a wheel was installed. Without it, and without a GPU, the host
libraries are built here and the pack holds the real kernel table with placeholder cubins, which only a GPU
would load. On a machine with a GPU the tree itself is imported, which `python -m ci build --in-place`
completes.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import torch

from kernels.build.host import build_host
from kernels.build.host_inputs import host_digest
from kernels.build.pack import PackEntry
from kernels.build.payload import LIBRARY_NAMES, write_payload
from kernels.table import VARIANTS

REPOSITORY = Path(__file__).parents[2]
VERSION = "0.1.0"
TARGET = "x86_64-linux-gnu.2.17"


@functools.cache
def choose_site(work: Path) -> Path:
    """Return the folder to put on the path; `work` keeps host libraries by the digest of their sources."""
    if "FLASH_ATTN3_SITE" in os.environ:
        return Path(os.environ["FLASH_ATTN3_SITE"])
    return REPOSITORY if torch.cuda.is_available() else _build_site(work)


def remove_site(site: Path | None) -> None:
    """Remove the folder if this process built it."""
    if site is not None and site.name == f"site-{os.getpid()}":
        shutil.rmtree(site, ignore_errors=True)


def _build_site(work: Path) -> Path:
    libraries = work / host_digest(TARGET, VERSION)
    if not all((libraries / name).is_file() for name in LIBRARY_NAMES):
        fresh = work / f"building-{os.getpid()}"
        build_host(TARGET, fresh, VERSION)
        shutil.rmtree(libraries, ignore_errors=True)
        fresh.replace(libraries)
    site = work / f"site-{os.getpid()}"
    package = site / "flash_attn3"
    write_payload(
        package,
        entries=[
            PackEntry(variant, b"placeholder of " + variant.name.encode(), "12.8") for variant in VARIANTS
        ],
        libraries={name: (libraries / name).read_bytes() for name in LIBRARY_NAMES},
        version=VERSION,
        platform="manylinux_2_17_x86_64",
    )
    ignored = shutil.ignore_patterns("__pycache__", "lib", "build.json")
    shutil.copytree(REPOSITORY / "flash_attn3", package, dirs_exist_ok=True, ignore=ignored)
    return site
