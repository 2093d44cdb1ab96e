"""The Atom feed of releases (RFC 4287), and the date of the next one."""

from __future__ import annotations

import re
import uuid
from datetime import date, timedelta
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from index_site.hosting import file_href
from index_site.projects import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from index_site.manifest import Manifest, Wheel

FEED_NAME = "feed.xml"
_ATOM = "http://www.w3.org/2005/Atom"
_XHTML = "http://www.w3.org/1999/xhtml"
_ENTRIES = 30
_BEFORE_ALL = "1970-01-01T00:00:00Z"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold, not even escaped."""
_IDS = uuid.UUID("6f1f6d2e-6a5f-5b0c-9a53-8c1f7f0b3d11")
"""The namespace of the feed's ids. An id depends on project and version alone, so it outlives a move."""


def feed(manifest: Manifest) -> bytes:
    """Return the feed: the newest releases of each project, the newest upload first."""
    releases = sorted(_releases(manifest), key=_published, reverse=True)[:_ENTRIES]
    root = _element("feed", None)
    if manifest.base_url is not None:
        root.set("xml:base", manifest.base_url)
        _element("link", root, rel="self", type="application/atom+xml", href=manifest.base_url + FEED_NAME)
    _element("id", root, _id(PROJECT))
    _element("title", root, f"Releases of {PROJECT}")
    _element("updated", root, max(map(_updated, releases), default=_BEFORE_ALL))
    _element("name", _element("author", root), f"{PROJECT} contributors")
    _element("link", root, rel="alternate", type="text/html", href="index.html")
    for release in releases:
        _add_entry(root, release)
    ET.indent(root, space=" ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'.encode()


def next_build(manifest: Manifest) -> date | None:
    """Return the day on which the next build is due; None without a cadence or a build."""
    built = max((wheel.upload_time for wheel in manifest.shown if wheel.project == PROJECT), default=None)
    if built is None or manifest.cadence_days is None:
        return None
    return date.fromisoformat(built[:10]) + timedelta(days=manifest.cadence_days)


def _releases(manifest: Manifest) -> Iterator[tuple[Wheel, ...]]:
    """Yield the newest releases of each project; the manifest is sorted by project and version."""
    for _, wheels in groupby(reversed(manifest.wheels), key=attrgetter("project")):
        versions = groupby((wheel for wheel in wheels if wheel.is_shown), key=attrgetter("version"))
        yield from islice((tuple(members)[::-1] for _, members in versions), _ENTRIES)


def _add_entry(root: ET.Element, release: Sequence[Wheel]) -> None:
    first = release[0]
    channel = "stable" if any(wheel.channel == "stable" for wheel in release) else "candidate"
    state = ", yanked" if all(wheel.yanked is not None for wheel in release) else ""
    entry = _element("entry", root)
    _element("id", entry, _id(first.pin))
    _element("title", entry, f"{first.project} {first.version} ({channel}{state})")
    _element("updated", entry, _updated(release))
    _element("published", entry, _published(release))
    _element("category", entry, term=channel)
    _element("link", entry, rel="alternate", type="text/html", href="wheels.html")
    for wheel in release:
        href = file_href(wheel.filename)
        _element("link", entry, rel="enclosure", type="application/zip", length=str(wheel.size), href=href)
    listing = _element("ul", _element("div", _element("content", entry, type="xhtml"), xmlns=_XHTML))
    for wheel in release:
        _add_file(_element("li", listing), wheel)


def _add_file(item: ET.Element, wheel: Wheel) -> None:
    _element("a", item, wheel.filename, href=file_href(wheel.filename)).tail = f", {wheel.channel}, sha256 "
    _element("code", item, wheel.sha256)
    notes = [f"Not stable: {wheel.channel_reason}."] if wheel.channel == "candidate" else []
    notes += [] if wheel.yanked is None else [f"Yanked: {wheel.yanked or 'no reason given'}."]
    for note in notes:
        _element("p", item, note)


def _published(release: Sequence[Wheel]) -> str:
    return min(wheel.upload_time for wheel in release)


def _updated(release: Sequence[Wheel]) -> str:
    return max(wheel.upload_time for wheel in release)


def _id(name: str) -> str:
    return uuid.uuid5(_IDS, name).urn


def _element(tag: str, parent: ET.Element | None, text: str | None = None, **attributes: str) -> ET.Element:
    """Add an element to its parent, if it has one, and return it."""
    if parent is None:
        element = ET.Element(tag, {"xmlns": _ATOM, **attributes})
    else:
        element = ET.SubElement(parent, tag, attributes)
    element.text = None if text is None else _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
    return element
