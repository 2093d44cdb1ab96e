"""Machines for the tests of the doctor: folders of packages, a driver, and the program in a process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCE = Path(__file__).parent / "index_site" / "fake_driver.c"


def fake_driver(folder: Path) -> Path:
    """Compile `libcuda.so.1` into a folder."""
    flags = (
        "-shared",
        "-O1",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-target",
        f"{platform.machine()}-linux-gnu",
    )
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *flags,
        str(_SOURCE),
        "-o",
        str(folder / "libcuda.so.1"),
    ]
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(folder / "zig"))
    subprocess.run(command, check=True, env={**os.environ, **caches})
    return folder


def distribution(
    site: Path, name: str, version: str, *, modules: Sequence[str] = (), requires: str = "", python: str = ""
) -> None:
    """Install a distribution with empty modules into a folder of packages."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    need = f"Requires-Dist: {requires}\n" if requires else ""
    need += f"Requires-Python: {python}\n" if python else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{need}")
    for module in modules:
        (site / module).parent.mkdir(parents=True, exist_ok=True)
        (site / module).write_text("raise SystemExit('the doctor should import nothing')\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*modules, f"{info.name}/RECORD")))


def torch_files(site: Path, version: str, cuda: str | None) -> None:
    """Install a torch that cannot be imported, and says its version as a real one does."""
    distribution(site, "torch", version.partition("+")[0], modules=["torch/__init__.py"])
    text = f"from typing import Optional\n__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n"
    (site / "torch" / "version.py").write_text(text)


@dataclass
class Patient:
    """A machine: its packages, its driver, and the environment of its processes."""

    site: Path
    driver: Path
    variables: dict[str, str] = field(default_factory=dict)
    with_driver: bool = True

    def gpu(self, sm: int, cuda: int = 13000, init: int = 0) -> None:
        """Put a GPU into it, or none for the SM 0."""
        self.variables |= {"FAKE_SM": str(sm), "FAKE_CUDA": str(cuda), "FAKE_INIT": str(init)}

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python there, without the packages of this one."""
        paths = {"PYTHONPATH": str(self.site), "PATH": self.variables.get("PATH", "")}
        library = {"LD_LIBRARY_PATH": str(self.driver)} if self.with_driver else {}
        environment = {"PYTHONWARNINGS": "error", **paths, **library, **self.variables}
        return subprocess.run(
            [sys.executable, "-S", *command],
            check=False,
            capture_output=True,
            text=True,
            input=text,
            env=environment,
            cwd=self.site,
        )

    def report(self, *command: str, text: str = "") -> tuple[int, dict[str, Any]]:
        """Return the exit code and the JSON of the doctor."""
        done = self.run(*command, "--json", text=text)
        assert not done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, document


def codes(problems: Sequence[dict[str, Any]]) -> list[str]:
    """Return the codes of problems."""
    return [problem["code"] for problem in problems]
