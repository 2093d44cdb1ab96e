"""A server that speaks S3, in a process of its own, and a proxy before it that misbehaves as a test asks."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "publisher",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Start the server, yield its address, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def new_bucket(client: Any) -> str:
    """Make a bucket that everybody can read, and return its name."""
    name = f"site-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    rule = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
    policy = {"Version": "2012-10-17", "Statement": [{**rule, "Resource": f"arn:aws:s3:::{name}/*"}]}
    client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    return name


@dataclass
class Faults:
    """What the proxy does to requests whose line (``PUT /bucket/key``) contains a text."""

    refused: str = ""
    """Answered with status 503, without reaching the store."""
    lost: str = ""
    """The store gets the first of them, but its answer is lost."""
    slow_s: float = 0
    """The time that every answer takes longer."""
    stale: str = ""
    """Answered as the first time."""
    unconditional: bool = False
    """The store does not see the conditions of writes, as if it did not know them."""
    cut: str = ""
    """Answered with a body whose last byte is another."""
    kept: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forward everything as it is again."""
        vars(self).update(vars(Faults()))


class _Handler(BaseHTTPRequestHandler):
    """Forwards a request to the store of its server, with the server's faults."""

    protocol_version = "HTTP/1.1"
    server: _Proxy

    def answer(self) -> None:
        faults, line = self.server.faults, f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if faults.refused and faults.refused in line:
            self.reply(503, [], b"")
            return
        if faults.stale and faults.stale in line and line in faults.kept:
            self.reply(*faults.kept[line])
            return
        status, headers, data = self.forwarded(body)
        faults.kept.setdefault(line, (status, headers, data))
        time.sleep(faults.slow_s)
        if faults.lost and faults.lost in line:
            faults.lost = ""
            self.close_connection = True
            return
        if faults.cut and faults.cut in line:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.reply(status, headers, data)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = answer  # noqa: N815 (names of the base)

    def forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        dropped = {"if-match", "if-none-match"} if self.server.faults.unconditional else set()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection = http.client.HTTPConnection(self.server.store, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        skipped = {"content-length", "transfer-encoding", "connection"}
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else str(len(data))
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        del format, args


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store, self.faults = store, faults


@contextmanager
def faulty_proxy(endpoint_url: str, faults: Faults) -> Iterator[str]:
    """Forward requests to a store, with faults, and yield the address of the proxy."""
    server = _Proxy(endpoint_url.removeprefix("http://"), faults)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
