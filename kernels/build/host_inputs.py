"""What decides the bytes of the host libraries, as the key under which a cache keeps them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kernels.build.host import COMPILE_FLAGS, HOST_DIR, LINK_FLAGS, RUNTIME, TORCH, ZIG_VERSION
from kernels.build.includes import files_digest, included_files

if TYPE_CHECKING:
    from pathlib import Path


def host_sources() -> tuple[Path, ...]:
    """Return the C++ sources of the host libraries and every file that they include, sorted."""
    names = sorted({*RUNTIME.sources(HOST_DIR), *TORCH.sources(HOST_DIR)})
    return included_files((HOST_DIR / name for name in names), (HOST_DIR, HOST_DIR.parent / "device"))


def host_digest(target: str, version: str) -> str:
    """Return the digest, in hex, of the sources, libraries, flags, compiler, target and version."""
    inputs = (
        files_digest(host_sources(), HOST_DIR.parent),
        repr((RUNTIME, TORCH, COMPILE_FLAGS, LINK_FLAGS)),
        ZIG_VERSION,
        target,
        version,
    )
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()
