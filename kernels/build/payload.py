"""The compiled part of the wheel, as a folder: ``lib/`` and ``build.json``.

Imports the standard library alone, because the build hook uses it inside pip's build isolation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from kernels.build.files import write_atomically
from kernels.build.host import RUNTIME, TORCH
from kernels.build.pack import PackEntry, write_pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kernels.table import Variant

PACK_NAME = "kernels.fa3pack"
LIBRARY_NAMES = (RUNTIME.name, TORCH.name)
PAYLOAD_NAMES = (*LIBRARY_NAMES, PACK_NAME)
"""The files of ``lib/``."""


def variant_fields(variant: Variant) -> dict[str, object]:
    """Return a variant as ``build.json`` has it: without macros, and of `allow` the gates alone.

    The macros say once more what the other fields do, and are half of the bytes. A reason is prose, on which
    the bytes of a wheel do not depend.
    """
    fields = dataclasses.asdict(variant)
    del fields["macros"]
    return fields | {"allow": [gate for gate, _reason in variant.allow]}


def write_payload(
    folder: Path,
    *,
    entries: Sequence[PackEntry],
    libraries: Mapping[str, bytes],
    version: str,
    platform: str,
) -> None:
    """Write the pack, the host libraries and ``build.json`` into ``folder``.

    Args:
        folder: made if missing; the compiled files and ``build.json`` are replaced, all others stay.
        entries: the compiled kernels.
        libraries: file name -> bytes of the host libraries.
        version: of the distribution.
        platform: the wheel's platform tag, such as ``manylinux_2_17_x86_64``.
    """
    lib = folder / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    for name in LIBRARY_NAMES:
        write_atomically(lib / name, libraries[name])
    write_pack(entries, lib / PACK_NAME)
    document = {
        "version": version,
        "content_digest": _content_digest(lib),
        "platform": platform,
        "toolkits": {entry.variant.name: entry.toolkit for entry in entries},
        "kernels": [variant_fields(entry.variant) for entry in entries],
    }
    (folder / "build.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _content_digest(lib: Path) -> str:
    """Return the sha256, in hex, of the names and sha256 of the compiled files.

    It follows from what the compilers put out, not from their sources: a comment in a source changes neither
    the digest nor the wheel.
    """
    lines = (
        f"{name} {hashlib.sha256((lib / name).read_bytes()).hexdigest()}\n" for name in sorted(PAYLOAD_NAMES)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
