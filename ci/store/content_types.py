"""The content types that installers and browsers require of the files of a site."""

from __future__ import annotations

from pathlib import PurePosixPath

_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
_TYPES = {".html": "text/html; charset=utf-8", ".metadata": "text/plain; charset=utf-8"}


def content_type(path: str) -> str | None:
    """Return the type that a file of a site must be served with; None if installers read it with any type.

    pip skips an index page of another type with a warning.

    Args:
        path: of the file within the site, or its URL path.
    """
    if "/simple/v1+json/" in path:
        return _SIMPLE_JSON
    return _TYPES.get(PurePosixPath(path).suffix)
