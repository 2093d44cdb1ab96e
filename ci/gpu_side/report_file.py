"""The format of a report: canonical JSON with a digest over itself. ``ci.proof`` reads and signs it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ci.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 2
DIGEST_FIELD = "report_sha256"
SIGNATURE_FIELD = "signature"
_SEALS = (DIGEST_FIELD, SIGNATURE_FIELD)


def report_digest(document: dict[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of all fields but the digest and the signature.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    rest = {name: value for name, value in document.items() if name not in _SEALS}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Replace a report, with its digest, in one step.

    Raises:
        ValueError: a number is NaN or infinite.
        DiskFull: there is no room; the old file is untouched.
    """
    sealed = {**document, DIGEST_FIELD: report_digest(document)}
    write_atomically(path, _format(sealed).encode())


def _format(document: dict[str, Any]) -> str:
    """Return JSON with one line for each field and for each item of a list, for readable diffs."""
    fields = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            items = ",\n  ".join(json.dumps(item, allow_nan=False, separators=(",", ":")) for item in value)
            text = f"[\n  {items}\n ]"
        else:
            text = json.dumps(value, allow_nan=False)
        fields.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"
