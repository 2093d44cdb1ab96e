"""Reads an index of Python packages: the wheels of a project, with their hashes (PEP 691)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ci.errors import IndexUnavailable

if TYPE_CHECKING:
    from packaging.tags import Tag
    from packaging.version import Version

_JSON = "application/vnd.pypi.simple.v1+json"
_DEFAULT = re.compile(r"Package\s+Index\s+\(default\s+(\S+?)\)")
"""Where pip's help shows the index that its configuration, or else pip itself, names."""
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_BLOCK = 1 << 16  # bytes read between two looks at the clock
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (requests.Timeout, "no whole answer in time"),
    (urllib3.exceptions.TimeoutError, "no whole answer in time"),
    (urllib3.exceptions.ProtocolError, "the answer ended too soon"),
    (json.JSONDecodeError, "the answer is no whole JSON"),
    (requests.ConnectionError, "nobody answers"),
)
"""The first kind that an error is of says it in words."""


@dataclass(frozen=True)
class IndexWheel:
    """A wheel that an index lists."""

    name: str
    version: Version
    tags: frozenset[Tag]
    sha256: str
    yanked: str | None
    """The reason for which it was yanked; None: it was not."""


@dataclass(frozen=True)
class PackageIndex:
    """An index, and how patiently it is read."""

    url: str
    """The base, below which each project has a page."""
    tries: int = 4
    pause_s: float = 2
    """Before the second try; each further pause is twice as long."""
    timeout_s: float = 60
    """For an answer, from the request to its last byte."""

    def wheels(self, project: str) -> tuple[IndexWheel, ...]:
        """Return the wheels of a project that have a sha256.

        Raises:
            IndexUnavailable: no try brought a whole answer; the text begins with the address.
        """
        address = f"{self.url.rstrip('/')}/{project}/"
        document = self._document(address)
        try:
            found = [_wheel(entry) for entry in document["files"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise IndexUnavailable(
                f"{address}: should list files as PEP 691 says, does not: {error!r}"
            ) from error
        return tuple(wheel for wheel in found if wheel is not None)

    def _document(self, address: str) -> Any:
        reason = ""
        for number in range(self.tries):
            if number:
                time.sleep(self.pause_s * 2 ** (number - 1))
            try:
                return self._answer(address)
            except requests.HTTPError as error:
                status = error.response.status_code
                reason = f"status {status}"
                if status not in _WORTH_A_RETRY:
                    raise IndexUnavailable(f"{address}: {reason}") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                reason = _in_words(error)
        raise IndexUnavailable(f"{address}: {reason}, in each of {self.tries} tries")

    def _answer(self, address: str) -> Any:
        deadline = time.monotonic() + self.timeout_s
        with requests.get(address, headers={"Accept": _JSON}, timeout=self.timeout_s, stream=True) as answer:
            answer.raise_for_status()
            body = bytearray()
            while block := answer.raw.read1(_BLOCK, decode_content=True):  # what has come, however little
                body += block
                if time.monotonic() > deadline:
                    raise requests.Timeout
        return json.loads(body)


def configured_index() -> str:
    """Return the address of the index that pip uses here.

    Raises:
        IndexUnavailable: pip does not say; the text holds what it says instead.
    """
    command = [sys.executable, "-I", "-m", "pip", "install", "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = _DEFAULT.search(done.stdout)
    if found is None:
        raise IndexUnavailable(f"--index: should be given, for pip names none: {done.stderr.strip()}")
    return found[1]


def _wheel(entry: dict[str, Any]) -> IndexWheel | None:
    """Return one file of an index; None if it is no wheel or has no sha256."""
    try:
        _, version, _, tags = parse_wheel_filename(entry["filename"])
    except InvalidWheelFilename:
        return None
    if "sha256" not in entry["hashes"]:
        return None
    yanked = entry.get("yanked", False)
    reason = None if yanked is False else str(yanked if isinstance(yanked, str) else "no reason given")
    return IndexWheel(entry["filename"], version, tags, entry["hashes"]["sha256"], reason)


def _in_words(error: Exception) -> str:
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return type(error).__name__
