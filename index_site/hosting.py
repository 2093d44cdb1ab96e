"""Hosting rules of a site: folders, content types, cache times."""

from __future__ import annotations

from pathlib import PurePosixPath

FILES = "files"
"""Folder of the wheels and their metadata files, which never change."""
API_JSON = "application/vnd.pypi.simple.v1+json"
_JSON_TREE = "simple/v1+json"
_CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".metadata": "text/plain; charset=utf-8"}
_IMMUTABLE = "max-age=31536000, immutable"
_REVALIDATED = "max-age=600"


def file_href(filename: str) -> str:
    """Return the address of a wheel relative to the root of the site.

    Of the characters that a manifest allows in a file name, only ``+`` needs an escape: some hosts decode it
    to a space.
    """
    return f"{FILES}/{filename.replace('+', '%2B')}"


def content_type(path: str) -> str | None:
    """Return the content type of a file of the site; None if installers accept any.

    pip skips a page of another type with nothing but a warning.

    Args:
        path: relative to the root of the site, or the whole path of an address.
    """
    if f"/{_JSON_TREE}/" in f"/{path}":
        return API_JSON
    return _CONTENT_TYPES.get(PurePosixPath(path).suffix)


def headers_file(channels: tuple[str, ...]) -> bytes:
    """Return ``_headers``, whose rules several static hosts read."""
    lines = [f"/{FILES}/*", f"  Cache-Control: {_IMMUTABLE}"]
    for channel in channels:
        lines += [f"/{channel}/*", f"  Cache-Control: {_REVALIDATED}"]
    for channel in channels:
        lines += [f"/{channel}/{_JSON_TREE}/*", f"  Content-Type: {API_JSON}"]
    return ("\n".join(lines) + "\n").encode()
