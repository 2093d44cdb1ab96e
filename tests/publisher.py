"""A publisher in a process of its own, which a test can kill, and a reader of the site that it changes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests

from ci.stages.publish import publish
from ci.store.folder import FolderStore
from ci.store.s3 import S3Store
from tests.quiet import Quiet
from tests.site_kit import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.store.store import Store

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "tests.preloaded"])  # so that a process starts at once
_TIMEOUT_S = 60


def start_publisher(site: Store, wheels: Sequence[Path]) -> Any:
    """Publish wheels one after another in a new process, which is returned when it begins."""
    begun = _PROCESSES.Event()
    where = (str(site.folder), "") if isinstance(site, FolderStore) else (site.name, _endpoint(site))
    process = _PROCESSES.Process(target=_publish, args=(*where, wheels, begun))
    process.start()
    assert begun.wait(_TIMEOUT_S)
    return process


def _endpoint(site: Store) -> str:
    assert isinstance(site, S3Store)
    return str(site.client.meta.endpoint_url)


def _publish(place: str, endpoint: str, wheels: Sequence[Path], begun: Any) -> None:
    site: Store = S3Store.connect(place, endpoint_url=endpoint) if endpoint else FolderStore(Path(place))
    begun.set()
    for wheel in wheels:
        publish(wheels=[wheel], reports=[], site=site, now=NOW, progress=Quiet())


class Reader:
    """Downloads the index again and again, and every file that is new on it, and notes what is wrong."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.turns = 0
        self.files: dict[str, str] = {}
        """File name -> sha256, of every file that the index listed so far; all were whole."""
        self.wrong: list[str] = []

    def look(self, session: requests.Session) -> None:
        """Read the page of the project once, as HTML and as JSON, and every file that is new on it."""
        page = urljoin(self.base, "candidate/simple/v1+json/flash-attn3/")
        listed = {}
        for entry in json.loads(self._bytes(session, page))["files"]:
            listed[entry["filename"]] = entry["hashes"]["sha256"]
            if entry["filename"] not in self.files:
                url = urljoin(page, entry["url"])
                self._require(session, url, entry["hashes"]["sha256"])
                self._require(session, f"{url}.metadata", entry["core-metadata"]["sha256"])
        self.wrong += [f"{name} is gone" for name in self.files.keys() - listed.keys()]
        html = self._bytes(session, urljoin(self.base, "candidate/simple/flash-attn3/")).decode()
        self.wrong += [f"{name} is gone from HTML" for name in self.files if f">{name}</a>" not in html]
        self.files |= listed
        self.turns += 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look until the block ends, and raise what was wrong."""
        ended = threading.Event()

        def loop() -> None:
            with requests.Session() as session:
                while not ended.wait(0.02):
                    self._look_safely(session)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert self.wrong == []

    def _look_safely(self, session: requests.Session) -> None:
        try:
            self.look(session)
        except (requests.RequestException, ValueError, KeyError) as error:
            self.wrong.append(repr(error))

    def _bytes(self, session: requests.Session, url: str) -> bytes:
        answer = session.get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return answer.content

    def _require(self, session: requests.Session, url: str, sha256: str) -> None:
        if hashlib.sha256(self._bytes(session, url)).hexdigest() != sha256:
            self.wrong.append(f"{url} has other bytes than the index says")
