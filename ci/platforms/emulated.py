"""A machine of another processor in a folder: a Python of Debian's packages, torch for CPUs, and an emulator.

Nothing is installed into this system: apt works in folders of its own, and only unpacks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from ci.errors import DiskFull, NotJudged
from ci.files import clear_scratch, folder_atomically, scratch_folder
from ci.lock import lock
from ci.output import last_line, reports_full_disk
from ci.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.progress import Reporter

_REQUIREMENTS = ROOT / "requirements" / "emulated.txt"
_PACKAGES = ("python3", "libstdc++6")
"""Of Debian, with what they depend on: Python, and the C++ library that torch needs."""


@dataclass(frozen=True)
class Emulated:
    """What an emulated machine is made of.

    Attributes:
        platform: its name in the matrix.
        emulators: programs that run its programs; the first that is installed is used.
        package: of Debian, which holds such a program.
        architecture: Debian's name of the processor.
        wheels: uv's name of the platform.
    """

    platform: str
    emulators: tuple[str, ...]
    package: str
    architecture: str
    wheels: str

    def folder(self, cache: Path) -> Path:
        """Return the folder of the machine, whose name changes with what it is made from."""
        made_from = f"{self}{_PACKAGES}{_REQUIREMENTS.read_text(encoding='utf-8')}"
        return cache / "emulated" / f"{self.platform}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Machine:
    """An emulated machine that is complete.

    Attributes:
        emulator: the program.
        root: its file system.
        site: the folder of its Python packages.
    """

    emulator: Path
    root: Path
    site: Path

    @property
    def emulator_version(self) -> str:
        """The first line that the emulator prints about itself."""
        return _run([self.emulator, "--version"], f"{self.emulator.name} cannot be run").splitlines()[0]

    def python(
        self, *arguments: str | Path, path: Sequence[Path], libraries: Sequence[Path] = ()
    ) -> list[str]:
        """Return the command line that runs the machine's Python.

        Args:
            arguments: of Python.
            path: folders that are searched for modules before the machine's own packages.
            libraries: folders that are searched for shared libraries before the machine's own.
        """
        variables = {
            "PYTHONPATH": os.pathsep.join(map(str, (*path, self.site))),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        }
        settings = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
        # Compiled modules are kept beside the machine, so that those of torch are compiled once.
        kept = ("-X", f"pycache_prefix={self.site.with_name('pycache')}")
        command = [self.emulator, "-L", self.root, *settings, _python(self.root), *kept, *arguments]
        return [str(word) for word in command]


def emulated_machine(emulated: Emulated, *, cache: Path, progress: Reporter) -> Machine:
    """Return an emulated machine, made at the first use: apt and uv download 120 MB, and it takes 550 MB.

    Raises:
        NotJudged: the emulator, apt or uv's packages cannot be had here; the text says which.
        DiskFull: there is no room for it.
    """
    found = [path for name in emulated.emulators if (path := shutil.which(name))]
    if not found:
        raise NotJudged(
            f"emulator: none of {', '.join(emulated.emulators)} is installed; apt install {emulated.package}"
        )
    folder = emulated.folder(cache)
    with lock(folder.parent, progress.say):
        clear_scratch(folder.parent)
        if not folder.is_dir():
            progress.say(f"emulated machine: making {folder} of Debian's packages and PyPI's torch (once)")
            with folder_atomically(folder) as scratch:
                _unpack_debian(emulated, scratch / "root")
                _install_torch(emulated, scratch / "root", scratch / "site")
    return Machine(Path(found[0]), folder / "root", folder / "site")


def _python(root: Path) -> Path:
    """Return the interpreter itself, and no link: an absolute one leads out of the machine's folder."""
    return max(path for path in (root / "usr" / "bin").glob("python3.*") if path.name[8:].isdigit())


def _unpack_debian(emulated: Emulated, root: Path) -> None:
    """Download packages of Debian with what they depend on, for another processor, and unpack them."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotJudged("emulated machine: apt-get and dpkg-deb are not installed here; a Debian has them")
    root.mkdir()
    with scratch_folder(root.parent) as apt:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()  # nothing is installed, so that apt takes all that is depended on
        settings = {
            "APT::Architecture": emulated.architecture,
            "APT::Architectures::": emulated.architecture,
            "APT::Sandbox::User": "root",  # who may write to these folders
            "Dir::State": apt / "state",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        command: list[str | Path] = ["apt-get", "-qq", *options]
        failure = f"emulated machine: apt has no {' and '.join(_PACKAGES)} for {emulated.architecture}"
        _run([*command, "update"], failure)
        download = ("install", "--yes", "--download-only", "--no-install-recommends")
        _run([*command, *download, *_PACKAGES], failure)
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "--extract", package, root], f"{package.name}: cannot be unpacked")


def _install_torch(emulated: Emulated, root: Path, site: Path) -> None:
    """Install torch and what it depends on, each pinned by its hash, as wheels for the machine."""
    version = _python(root).name.removeprefix("python")
    target = ("--target", site, "--python-platform", emulated.wheels, "--python-version", version)
    source = ("--require-hashes", "--only-binary", ":all:", "--no-cache", "--link-mode", "copy")
    command: list[str | Path] = [
        uv.find_uv_bin(),
        "pip",
        "install",
        "--quiet",
        *target,
        *source,
        "-r",
        _REQUIREMENTS,
    ]
    _run(command, f"emulated machine: uv could not install {_REQUIREMENTS.name}")


def _run(command: Sequence[str | Path], failure: str) -> str:
    """Run a program and return its output; its failure means that nothing can be judged here."""
    variables = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables)
    if reports_full_disk(done.stderr):
        raise DiskFull(f"{failure}: no room left on its disk")
    if done.returncode != 0:
        raise NotJudged(f"{failure}: {last_line(done.stderr, f'it ended with {done.returncode}')}")
    return done.stdout
