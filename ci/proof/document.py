"""What reports of every kind have in common when they are read: JSON with a schema, a digest and a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ci.errors import CorruptReport, OtherReportSchema
from ci.gpu_side.report_file import DIGEST_FIELD, report_digest

if TYPE_CHECKING:
    from pathlib import Path

_Model = TypeVar("_Model", bound=BaseModel)


def load_document(raw: bytes, path: Path, noun: str) -> tuple[str, Any]:
    """Return the text of a report and its JSON value.

    Args:
        raw: the bytes of ``path``.
        path: names the report in errors.
        noun: what it should be, such as ``a validation report``.

    Raises:
        CorruptReport: it is no JSON text.
    """
    try:
        text = raw.decode()
        return text, json.loads(text)
    except RecursionError as error:
        raise CorruptReport(f"{path}: not {noun}: it is nested too deeply") from error
    except ValueError as error:
        raise CorruptReport(f"{path}: cannot be read as {noun}: {error}") from error


def check_schema(document: dict[str, Any], path: Path, version: int, command: str) -> None:
    """Raise OtherReportSchema unless a report is of this version; ``command`` makes a new one."""
    found = document.get("schema_version")
    if found != version:
        raise OtherReportSchema(
            f"{path}: schema_version: should be {version}, got {found!r}; {command} the wheel again"
        )


def parse_document(text: str, document: dict[str, Any], path: Path, model: type[_Model]) -> _Model:
    """Check the digest of a report and return it as its model.

    Raises:
        CorruptReport: it was altered, or the model refuses it.
    """
    try:
        digest = report_digest(document)
    except ValueError as error:  # json.loads accepts NaN and Infinity
        raise CorruptReport(f"{path}: {error}") from error
    if document.get(DIGEST_FIELD) != digest:
        raise CorruptReport(f"{path}: was altered: its {DIGEST_FIELD} is not the digest of its contents")
    try:
        # Strict mode accepts a JSON array as a tuple only when it parses the JSON itself.
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptReport(f"{path}: {where}: {first['msg']}") from error
