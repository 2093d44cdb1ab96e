"""Serves a site as a static host should: with the required content types, without directory listings."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ci.errors import PortTaken
from index_site.hosting import cache_control, content_type

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def served(folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a folder and yield its address, with a final slash.

    Args:
        folder: what to serve.
        host: the name or address of this machine to listen at; 0.0.0.0 for every IPv4 address.
        port: the port; 0: a free one.

    Raises:
        PortTaken: nothing can listen there: another program does, or it is no address of this machine.
    """
    try:
        server = ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        advice = "give another --port, or none for a free one" if port else "give another --host"
        raise PortTaken(f"cannot serve at {host}, port {port}: {error.strerror}; {advice}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(SimpleHTTPRequestHandler):
    """Answers the address of a folder with its index.html or index.json, never with a listing."""

    protocol_version = "HTTP/1.1"
    _found = False

    def translate_path(self, path: str) -> str:
        found = super().translate_path(path)
        index = Path(found) / "index.json"
        return str(index) if path.endswith("/") and index.is_file() else found

    def guess_type(self, path: str) -> str:  # type: ignore[override]  # the base also takes PathLike, never passed
        return content_type(path)

    def end_headers(self) -> None:
        if self._found:
            self.send_header("Cache-Control", cache_control(unquote(urlsplit(self.path).path.lstrip("/"))))
        super().end_headers()

    def send_response(self, code: int, message: str | None = None) -> None:
        self._found = code in {HTTPStatus.OK, HTTPStatus.NOT_MODIFIED}
        super().send_response(code, message)

    def list_directory(self, path: str) -> IO[bytes] | None:  # type: ignore[override]
        del path
        self.send_error(404, "no such page")
        return None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        del format, args
