"""Hosting rules of a site: folders, content types, cache times. Every host and store follows these."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

FILES = "files"
"""Folder of the wheels and their metadata files, which never change."""
REPORTS = "reports"
"""Folder of the validation reports, each named by its sha256."""
API_JSON = "application/vnd.pypi.simple.v1+json"
IMMUTABLE = "max-age=31536000, immutable"
REVALIDATED = "max-age=600"
_JSON_TREE = "simple/v1+json"
_ANY = "application/octet-stream"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".metadata": "text/plain; charset=utf-8",
    ".py": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".whl": _ANY,
    ".xml": "application/atom+xml",
}
"""Suffix of a file -> its content type, outside the JSON pages of the API."""
_INDEX_PAGES = ("index.html", "index.json")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)/", re.ASCII)


def file_href(filename: str) -> str:
    """Return the address of a wheel relative to the root of the site.

    Of the characters that a manifest allows in a file name, only ``+`` needs an escape: some hosts decode it
    to a space.
    """
    return f"{FILES}/{filename.replace('+', '%2B')}"


def content_type(path: str) -> str:
    """Return the content type of a file of the site, or of a folder's index page.

    pip skips a page of another type with nothing but a warning.

    Args:
        path: relative to the root of the site, or the whole path of an address.
    """
    if f"/{_JSON_TREE}/" in f"/{path}":
        return API_JSON
    return CONTENT_TYPES.get(".html" if _is_folder(path) else PurePosixPath(path).suffix, _ANY)


def needs_content_type(path: str) -> bool:
    """Return whether installers and browsers refuse a file that is served with another content type."""
    return content_type(path) == API_JSON or _is_folder(path) or path.endswith(".html")


def cache_control(path: str) -> str:
    """Return the value of the header Cache-Control for a file of the site.

    Args:
        path: relative to the root of the site.
    """
    return IMMUTABLE if is_immutable(path) else REVALIDATED


def is_immutable(path: str) -> bool:
    """Return whether the bytes at a path never change: those of wheels, reports and snapshots."""
    return path.startswith((f"{FILES}/", f"{REPORTS}/")) or snapshot_date(path) is not None


def snapshot_date(path: str) -> str | None:
    """Return the date of the snapshot that a page belongs to; None for another path."""
    match = _DATED.match(path)
    return None if match is None else match[1]


def folder_address(path: str) -> str | None:
    """Return the address of the folder whose index page a path is, or None: ``a/index.html`` -> ``a/``."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/" if folder and name in _INDEX_PAGES else None


def headers_file(channels: Iterable[str], dates: Iterable[str]) -> bytes:
    """Return ``_headers``, whose rules several static hosts read."""
    lines = []
    for folder in (FILES, REPORTS, *dates):
        lines += [f"/{folder}/*", f"  Cache-Control: {IMMUTABLE}"]
    for channel in channels:
        lines += [f"/{channel}/*", f"  Cache-Control: {REVALIDATED}"]
    for folder in (*channels, *dates):
        lines += [f"/{folder}/{_JSON_TREE}/*", f"  Content-Type: {API_JSON}"]
    return ("\n".join(lines) + "\n").encode()


def _is_folder(path: str) -> bool:
    return path == "" or path.endswith("/")
