"""An index of packages on this machine that answers as PEP 691 says, or badly, as a test wants it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON = "application/vnd.pypi.simple.v1+json"


def wheel(filename: str, sha256: str = "0" * 64, **others: Any) -> dict[str, Any]:
    """An entry of an index; the address is one that nobody follows."""
    return {"filename": filename, "url": f"../{filename}", "hashes": {"sha256": sha256}, **others}


@dataclass
class Index:
    """What the server has, and how it answers: good, 500, 404, html, or a body that is cut, stalls, drips."""

    projects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)
    """Project -> how to answer its next requests; after these, well."""
    asked: list[str] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(index: Index) -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            project = self.path.strip("/").rpartition("/")[2]
            index.asked.append(project)
            kinds = index.answers.get(project, [])
            kind = kinds.pop(0) if kinds else "good"
            if kind == "404" or project not in index.projects:
                self.send_error(404)
                return
            if kind == "500":
                self.send_error(500)
                return
            body = json.dumps({"meta": {"api-version": "1.1"}, "files": index.projects[project]}).encode()
            if kind == "html":
                body = b"<!DOCTYPE html>"
            self.send_response(200)
            self.send_header("Content-Type", JSON)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if kind in {"cut", "stall"}:
                body = body[: len(body) // 2]
            with suppress(ConnectionError):  # a client that lost patience
                for byte in body if kind == "drip" else ():
                    self.wfile.write(bytes([byte]))
                    index.stopped.wait(0.05)
                self.wfile.write(b"" if kind == "drip" else body)
                self.wfile.flush()
            if kind == "stall":
                index.stopped.wait(30)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield index
    finally:
        index.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
