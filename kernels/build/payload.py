"""The compiled part of the wheel, as a folder: ``lib/`` and ``build.json``.

Only the standard library is imported here: the build hook uses it inside pip's build isolation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from kernels.build.host import HOST_DIR, RUNTIME, SHARED_HEADERS, TORCH, ZIG_VERSION
from kernels.build.pack import PackEntry, write_pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kernels.table import Variant

PACK_NAME = "kernels.fa3pack"
LIBRARY_NAMES = (RUNTIME.name, TORCH.name)


def variant_row(variant: Variant) -> dict[str, object]:
    """Return a row of the kernel table as plain data."""
    return dataclasses.asdict(variant)


def combined_digest(digests: Mapping[str, str]) -> str:
    """Combine the digests of named inputs into one, in hex, independent of their order."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest the source files of a folder: their names and bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return combined_digest(
        {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    )


def host_digest(target: str, version: str) -> str:
    """Digest everything that decides the bytes of the host libraries."""
    inputs = {
        "sources": folder_digest(HOST_DIR),
        **{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHARED_HEADERS},
        "target": target,
        "version": version,
        "compiler": ZIG_VERSION,
    }
    return combined_digest(inputs)


def write_payload(
    folder: Path,
    *,
    entries: Sequence[PackEntry],
    libraries: Mapping[str, bytes],
    version: str,
    platform: str,
    source_digest: str,
) -> None:
    """Fill ``folder`` anew with the pack, the host libraries and ``build.json``.

    Args:
        folder: is emptied first.
        entries: the compiled kernels.
        libraries: file name -> bytes of the host libraries.
        version: of the distribution.
        platform: the wheel's platform tag, such as ``manylinux_2_17_x86_64``.
        source_digest: the digest of everything that decided the compiled bytes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    lib = folder / "lib"
    lib.mkdir(parents=True)
    for name in LIBRARY_NAMES:
        (lib / name).write_bytes(libraries[name])
    write_pack(entries, lib / PACK_NAME)
    document = {
        "version": version,
        "source_digest": source_digest,
        "platform": platform,
        "toolkits": {entry.variant.name: entry.toolkit for entry in entries},
        "kernels": [variant_row(entry.variant) for entry in entries],
    }
    (folder / "build.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
