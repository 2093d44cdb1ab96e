"""The pages that installers read: for each channel find-links, and the simple API in HTML and JSON."""

from __future__ import annotations

import json
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from index_site.hosting import file_href, headers_file
from index_site.manifest import CHANNELS, Manifest, Wheel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The HTML form of the API is frozen at 1.4 (PEP 833), the version that brought the project status (PEP 792).
API_VERSION = "1.4"
_META = {"api-version": API_VERSION}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def machine_pages(manifest: Manifest) -> dict[str, bytes]:
    """Return the pages by path.

    For every channel there are:

    - ``CHANNEL/index.html``: the flat page for ``--find-links``;
    - ``CHANNEL/simple/``: the HTML tree for ``--index-url``;
    - ``CHANNEL/simple/v1+json/``: the same as JSON, at a path of its own as static hosts do not negotiate.
    """
    # The same for all pages but for the relative path to the root of the site.
    anchors = {wheel.filename: _anchor(wheel) for wheel in manifest.shown}
    entries = {wheel.filename: _json(_file_entry(wheel)) for wheel in manifest.shown}
    projects: dict[str, bytes] = {}
    roots: dict[str, bytes] = {}
    for channel in CHANNELS:
        wheels = manifest.on_channel(channel)
        names = []
        for project, group in groupby(wheels, key=lambda wheel: wheel.project):
            names.append(project)
            members = list(group)
            html = _html(f"Links for {project}", _links(members, anchors, up="../../../"), status=True)
            projects[f"{channel}/simple/{project}/index.html"] = html
            document = _project_json(project, members, entries)
            projects[f"{channel}/simple/v1+json/{project}/index.json"] = document
        listing = (f'<a href="{escape(name)}/">{escape(name)}</a>' for name in names)
        roots[f"{channel}/simple/index.html"] = _html("Simple index", listing)
        root = {"meta": _META, "projects": [{"name": name} for name in names]}
        roots[f"{channel}/simple/v1+json/index.json"] = f"{_json(root)}\n".encode()
        roots[f"{channel}/index.html"] = _html(f"Wheels on {channel}", _links(wheels, anchors, up="../"))
    # GitHub Pages runs Jekyll over a site without a file .nojekyll.
    hosting = {"_headers": headers_file(CHANNELS, ()), ".nojekyll": b""}
    return projects | roots | hosting


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


def _links(wheels: Iterable[Wheel], anchors: dict[str, str], *, up: str) -> Iterable[str]:
    return (f'<a href="{up}{anchors[wheel.filename]}' for wheel in wheels)


def _html(title: str, lines: Iterable[str], *, status: bool = False) -> bytes:
    active = '<meta name="pypi:project-status" content="active">\n' if status else ""
    body = "<br>\n".join(lines)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="pypi:repository-version" content="{API_VERSION}">\n{active}'
        f"<title>{escape(title)}</title>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    ).encode()


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


def _project_json(project: str, wheels: Sequence[Wheel], entries: dict[str, str]) -> bytes:
    head = _json(
        {
            "meta": _META,
            "name": project,
            "project-status": {"status": "active"},
            "versions": list(dict.fromkeys(wheel.version for wheel in wheels)),
        }
    )
    files = ",\n".join(entries[wheel.filename] for wheel in wheels)
    return f'{head.removesuffix("}")},"files":[\n{files}\n]}}\n'.encode()


def _json(document: Mapping[str, object]) -> str:
    return _ENCODER.encode(document)
