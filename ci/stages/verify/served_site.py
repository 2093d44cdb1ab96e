"""Compares a served site with its manifest, byte for byte, and follows its links."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

import requests

from ci.check import Check
from ci.files import sha256_of_blocks
from ci.stages.revise import store_addresses, stored_pages
from ci.store.folder import as_store
from ci.store.store import MARKER
from index_site.hosting import FILES, content_type, file_href, needs_content_type
from index_site.manifest import MANIFEST_NAME, dump_manifest
from index_site.pages import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ci.store.store import Store
    from index_site.manifest import Manifest

_SHOWN = 3
_TIMEOUT_S = 60


def check_served(base: str, manifest: Manifest) -> tuple[Check, ...]:
    """Download the whole site from ``base``, its address with the final slash, and check it."""
    pages = render(manifest)
    with requests.Session() as session:
        session.trust_env = False  # no proxy: the site is on this machine
        files = _wrong_files(session, base, manifest)
        texts = {path: _get(session, base + path) for path in (*pages, MANIFEST_NAME)}
        links = sorted(_links(base, pages))
        known = {base + path for path, answer in texts.items() if answer.ok}
        known |= {base + file_href(wheel.filename) for wheel in manifest.wheels}
        broken = [link for link in links if link not in known and not _answers(session, link)]
        frozen = dict(page for snapshot in manifest.snapshots for page in snapshot.pages.items())
        changed = [path for path, digest in frozen.items() if not _is_frozen(session, base, path, digest)]
    wanted = {**pages, MANIFEST_NAME: dump_manifest(manifest)}
    altered = [path for path, answer in texts.items() if not answer.ok or answer.content != wanted[path]]
    typed = [
        f"{path} is {answer.headers.get('Content-Type')}"
        for path, answer in texts.items()
        if answer.ok and needs_content_type(path) and not _same_type(answer, content_type(path))
    ]
    unfit = [wheel.filename for wheel in manifest.wheels if not wheel.is_shown]
    return (
        _check("audits", unfit, "no wheel failed its audit"),
        _check(
            "files",
            files,
            f"{len(manifest.wheels)} wheels, with their metadata and reports, have their size and sha256",
        ),
        _check("pages", altered + changed, f"{len(wanted) + len(frozen)} pages are those of the manifest"),
        _check("content types", typed, "installers accept every page"),
        _check("links", broken, f"{len(links)} links work"),
    )


def check_store(site: Store | Path, manifest: Manifest) -> Check:
    """Check that a site, or the folder of one, holds no file which its manifest does not name."""
    store = as_store(site)
    known = {MANIFEST_NAME, *(path for path, _ in stored_pages(store, manifest))}
    for wheel in manifest.wheels:
        known |= {f"{FILES}/{wheel.filename}", f"{FILES}/{wheel.filename}.metadata"}
        known |= {report.path for report in wheel.reports}
    frozen = (path for snapshot in manifest.snapshots for path in snapshot.pages)
    known |= {address for path in frozen for address in store_addresses(store, path)}
    strays = [path for path in store.paths() if path not in known and not path.startswith(f"{MARKER}/")]
    return _check("store", sorted(strays), "no file is there that the manifest does not name")


def _check(name: str, faults: list[str], good: str) -> Check:
    more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return Check(name, not faults, f"wrong: {', '.join(faults[:_SHOWN])}{more}" if faults else good)


def _get(session: requests.Session, url: str) -> requests.Response:
    return session.get(url, timeout=_TIMEOUT_S)


def _is_frozen(session: requests.Session, base: str, path: str, sha256: str) -> bool:
    """Return whether a page of a snapshot has the bytes that were frozen, and the type."""
    answer = _get(session, base + path)
    is_same = answer.ok and hashlib.sha256(answer.content).hexdigest() == sha256
    return is_same and _same_type(answer, content_type(path))


def _answers(session: requests.Session, url: str) -> bool:
    # Not HEAD: a store may let everybody read its files and yet refuse that.
    with session.get(url, stream=True, timeout=_TIMEOUT_S) as answer:
        return answer.ok


def _wrong_files(session: requests.Session, base: str, manifest: Manifest) -> list[str]:
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for wheel in manifest.wheels:
        href = file_href(wheel.filename)
        digests[href], sizes[href] = wheel.sha256, wheel.size
        digests[f"{href}.metadata"] = wheel.metadata_sha256
        digests.update({report.path: report.sha256 for report in wheel.reports})
    wrong_sizes, wrong_digests = [], []
    for path, wanted in digests.items():
        with session.get(base + path, stream=True, timeout=_TIMEOUT_S) as answer:
            size = sizes.get(path)
            if answer.ok and size is not None and answer.headers.get("Content-Length") != str(size):
                wrong_sizes.append(f"{path} has not the manifest's size {size}")
            if not answer.ok or sha256_of_blocks(answer.iter_content(1 << 20)) != wanted:
                wrong_digests.append(path)
    return wrong_sizes + wrong_digests


def _same_type(answer: requests.Response, required: str) -> bool:
    """Compare content types without their parameters, which installers ignore."""
    return answer.headers.get("Content-Type", "").partition(";")[0] == required.partition(";")[0]


def _links(base: str, pages: dict[str, bytes]) -> set[str]:
    """Collect the targets of all links of the pages, without fragments."""
    found = set()
    for path, page in pages.items():
        if path.endswith(".html"):
            targets: Iterable[str] = _hrefs(page.decode())
        elif path.endswith(".json"):
            targets = (entry["url"] for entry in json.loads(page).get("files", ()))
        else:
            continue
        found |= {urldefrag(urljoin(base + path, target)).url for target in targets}
    return {link for link in found if not link.startswith("data:")}


def _hrefs(html: str) -> Iterator[str]:
    parser = _LinkParser()
    parser.feed(html)
    return iter(parser.hrefs)


class _LinkParser(HTMLParser):
    """Collects the ``href`` of every tag that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.hrefs += [value for name, value in attrs if name == "href" and value]
