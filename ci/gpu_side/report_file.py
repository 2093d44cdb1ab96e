"""The bytes of a report: canonical JSON with a digest over itself.

Only the standard library is imported here: ``validate`` and ``tune --run`` need it where there is nothing
else. ``ci.proof.report`` reads those of a validation.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
DIGEST_FIELD = "report_sha256"


def report_digest(document: dict[str, Any]) -> str:
    """Return the sha256 over the canonical JSON of everything but the digest itself, in hex."""
    rest = {name: value for name, value in document.items() if name != DIGEST_FIELD}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _format(document: dict[str, Any]) -> str:
    """Return JSON with one line for each field and each item of a list: there are thousands of cases."""
    fields = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            items = ",\n  ".join(json.dumps(item, allow_nan=False, separators=(",", ":")) for item in value)
            text = f"[\n  {items}\n ]"
        else:
            text = json.dumps(value, allow_nan=False)
        fields.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write a report with its digest; the file is replaced as a whole or not at all."""
    sealed = {**document, DIGEST_FIELD: report_digest(document)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_format(sealed))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
