"""The pages that installers read: for each channel find-links, and the simple API in HTML and JSON."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic_core import to_json

from index_site.hosting import file_href, headers_file
from index_site.manifest import CHANNELS, Manifest, ProjectStatus, Wheel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The HTML form of the API is frozen at 1.4 (PEP 833), the version that brought the project status (PEP 792).
API_VERSION = "1.4"
_META = {"api-version": API_VERSION}


def machine_pages(manifest: Manifest) -> dict[str, bytes]:
    """Return the pages by path.

    For every channel there are:

    - ``CHANNEL/index.html``: the flat page for ``--find-links``;
    - ``CHANNEL/simple/``: the HTML tree for ``--index-url``;
    - ``CHANNEL/simple/v1+json/``: the same as JSON, at a path of its own as static hosts do not negotiate.
    """
    views = _Views(manifest, manifest.shown)
    projects: dict[str, bytes] = {}
    roots: dict[str, bytes] = {}
    for channel in CHANNELS:
        wheels = manifest.on_channel(channel)
        projects |= views.project_pages(channel, wheels)
        roots |= views.root_pages(channel, wheels)
    # GitHub Pages runs Jekyll over a site without a file .nojekyll.
    dates = [snapshot.date for snapshot in manifest.snapshots]
    return projects | roots | {"_headers": headers_file(CHANNELS, dates), ".nojekyll": b""}


def snapshot_pages(manifest: Manifest, date: str) -> dict[str, bytes]:
    """Return the same pages for what ``stable`` lists, below a folder of this date: for a new snapshot."""
    wheels = manifest.on_channel("stable")
    views = _Views(manifest, wheels)
    return views.project_pages(date, wheels) | views.root_pages(date, wheels)


class _Views:
    """The wheels of a manifest as lines of pages: the same for all pages but for the path to the root."""

    def __init__(self, manifest: Manifest, wheels: Iterable[Wheel]) -> None:
        offered = [wheel for wheel in wheels if manifest.status_of(wheel.project).is_offered]
        self._manifest = manifest
        self._anchors = {wheel.filename: _anchor(wheel) for wheel in offered}
        self._entries = {wheel.filename: _json(_file_entry(wheel)) for wheel in offered}

    def project_pages(self, folder: str, wheels: Iterable[Wheel]) -> dict[str, bytes]:
        """Return the pages of each project below a folder."""
        pages: dict[str, bytes] = {}
        for project, members in groupby(wheels, key=lambda wheel: wheel.project):
            status = self._manifest.status_of(project)
            files = list(members) if status.is_offered else []
            links = self._links(files, up="../../../")
            pages[f"{folder}/simple/{project}/index.html"] = _html(f"Links for {project}", links, status)
            document = _project_json(project, status, files, self._entries)
            pages[f"{folder}/simple/v1+json/{project}/index.json"] = document
        return pages

    def root_pages(self, folder: str, wheels: Sequence[Wheel]) -> dict[str, bytes]:
        """Return the pages below a folder that list its projects, and the flat page."""
        names = list(dict.fromkeys(wheel.project for wheel in wheels))
        listing = (f'<a href="{escape(name)}/">{escape(name)}</a>' for name in names)
        document = {"meta": _META, "projects": [{"name": name} for name in names]}
        flat = [wheel for wheel in wheels if wheel.filename in self._anchors]
        return {
            f"{folder}/simple/index.html": _html("Simple index", listing),
            f"{folder}/simple/v1+json/index.json": f"{_json(document)}\n".encode(),
            f"{folder}/index.html": _html(f"Wheels on {folder}", self._links(flat, up="../")),
        }

    def _links(self, wheels: Iterable[Wheel], *, up: str) -> Iterable[str]:
        return (f'<a href="{up}{self._anchors[wheel.filename]}' for wheel in wheels)


def _anchor(wheel: Wheel) -> str:
    digest = f"sha256={wheel.metadata_sha256}"
    python = f' data-requires-python="{escape(wheel.requires_python)}"' if wheel.requires_python else ""
    yanked = "" if wheel.yanked is None else f' data-yanked="{escape(wheel.yanked)}"'
    # pip before 23.2 reads the second name of the metadata's digest. uv reads the upload time.
    return (
        f'{file_href(wheel.filename)}#sha256={wheel.sha256}"{python} data-core-metadata="{digest}" '
        f'data-dist-info-metadata="{digest}" data-upload-time="{wheel.upload_time}"{yanked}>'
        f"{wheel.filename}</a>"
    )


def _html(title: str, lines: Iterable[str], status: ProjectStatus | None = None) -> bytes:
    body = "<br>\n".join(lines)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="pypi:repository-version" content="{API_VERSION}">\n{_status_meta(status)}'
        f"<title>{escape(title)}</title>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    ).encode()


def _status_meta(status: ProjectStatus | None) -> str:
    if status is None:
        return ""
    lines = f'<meta name="pypi:project-status" content="{status.status}">\n'
    if status.reason:
        lines += f'<meta name="pypi:project-status-reason" content="{escape(status.reason)}">\n'
    return lines


def _file_entry(wheel: Wheel) -> dict[str, object]:
    # PEP 714 keeps the older name dist-info-metadata for HTML: pip 22.3 to 23.1 crash on it in JSON.
    metadata = {"sha256": wheel.metadata_sha256}
    entry: dict[str, object] = {
        "filename": wheel.filename,
        "url": f"../../../../{file_href(wheel.filename)}",
        "hashes": {"sha256": wheel.sha256},
        "core-metadata": metadata,
        "size": wheel.size,
        "upload-time": wheel.upload_time,
        "yanked": False if wheel.yanked is None else wheel.yanked,
    }
    if wheel.requires_python:
        entry["requires-python"] = wheel.requires_python
    return entry


def _project_json(
    project: str, status: ProjectStatus, wheels: Sequence[Wheel], entries: Mapping[str, str]
) -> bytes:
    head = _json(
        {
            "meta": _META,
            "name": project,
            "project-status": status.model_dump(exclude_defaults=True),
            "versions": list(dict.fromkeys(wheel.version for wheel in wheels)),
        }
    )
    files = ",\n".join(entries[wheel.filename] for wheel in wheels)
    return f'{head.removesuffix("}")},"files":[\n{files}\n]}}\n'.encode()


def _json(document: Mapping[str, object]) -> str:
    return to_json(document).decode()
