"""Fresh virtual environments that already hold torch, to test installers without downloading torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import packaging
import uv
from packaging.utils import canonicalize_name

from ci.errors import VerifyFailed
from ci.platforms.venv import VirtualEnvironment

_UNWANTED = frozenset({"flash-attn3", "flash-attn-3"})
"""Projects whose installation is tested, so that none of ``torch_site`` may count as installed."""
_LAST_LINES = 12
_TAGS = "import sys; sys.path.append(sys.argv[1]); from packaging import tags; print(*tags.sys_tags())"
_VERSION = "import platform; print(platform.python_version())"


class ProgramError(Exception):
    """A program failed; the text holds its command line and the last lines of its output."""


@dataclass(frozen=True)
class Interpreter:
    """A Python, its version, and the tags of the wheels that it can install."""

    python: Path
    version: str
    tags: frozenset[str]


def inspect_interpreter(python: Path) -> Interpreter:
    """Run an interpreter to read its version and wheel tags.

    Raises:
        VerifyFailed: it cannot be run.
    """
    try:
        version = run([python, "-I", "-c", _VERSION], env=os.environ).strip()
        tags = run([python, "-I", "-c", _TAGS, str(Path(packaging.__path__[0]).parent)], env=os.environ)
    except (OSError, ProgramError) as error:
        raise VerifyFailed(f"python: {python} cannot be run: {error}") from error
    return Interpreter(python, version, frozenset(tags.split()))


def run(argv: list[str | Path], *, env: os._Environ[str] | dict[str, str], cwd: Path | None = None) -> str:
    """Run a program and return what it wrote to standard output.

    Raises:
        ProgramError: it failed.
    """
    result = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ProgramError(_failure(argv, result.returncode, result.stdout + result.stderr))
    return result.stdout


def _failure(argv: list[str | Path], status: int, output: str) -> str:
    lines = output.strip().splitlines()[-_LAST_LINES:]
    return f"{shlex.join(map(str, argv))} ended with {status}:\n" + "\n".join(lines)


@dataclass(frozen=True)
class Environment:
    """A virtual environment whose installers use no configuration of the user's."""

    folder: Path
    index: str
    """The address that replaces the public index."""

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return VirtualEnvironment(self.folder).python

    def shell(self, command: str, *, cwd: Path) -> str:
        """Run a command line as a user would after activating this environment.

        ``pip`` and ``uv`` are the farm's own, directed at this environment.

        Raises:
            ProgramError: it failed.
        """
        program, *arguments = shlex.split(command)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--require-virtualenv", "--python", self.python]
        known: dict[str, list[str | Path]] = {"pip": pip, "uv": [uv.find_uv_bin()]}
        return run([*known.get(program, [program]), *arguments], env=self._variables(), cwd=cwd)

    def python_output(self, code: str, *, cwd: Path) -> str:
        """Run Python code in the environment and return what it printed.

        Raises:
            ProgramError: it failed.
        """
        return run([self.python, "-I", "-B", "-c", code], env=self._variables(), cwd=cwd)

    def _variables(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.defpath}",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "NO_PROXY": "127.0.0.1",
            "VIRTUAL_ENV": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "1",
            "UV_CACHE_DIR": str(self.folder / "uv-cache"),
            # torch is installed already, so no command needs the public index; uv must not contact it.
            "UV_DEFAULT_INDEX": self.index,
            "UV_PYTHON_DOWNLOADS": "never",
        }


def fresh_environment(folder: Path, *, interpreter: Interpreter, torch_site: Path, index: str) -> Environment:
    """Create a virtual environment in which the distributions of ``torch_site`` count as installed.

    For pip a ``.pth`` file to ``torch_site`` would suffice, but uv reads distributions from the environment's
    own folder only. Their metadata is therefore copied there, and the ``.pth`` names a folder of links to
    their modules, so that no installer can write to ``torch_site``.

    Args:
        folder: of the environment; replaced.
        interpreter: the Python of the environment.
        torch_site: a site-packages folder that holds torch and its dependencies.
        index: the address that replaces the public index.

    Raises:
        ProgramError: the environment cannot be created.
    """
    base = VirtualEnvironment(folder)
    modules = folder / "torch-modules"
    try:
        base.create(interpreter.python, pip=False)
        packages = base.site_packages()
        base.add_to_path(modules.name, modules)
    except subprocess.CalledProcessError as error:
        raise ProgramError(_failure(error.cmd, error.returncode, error.stdout + error.stderr)) from error
    modules.mkdir()
    for path in torch_site.iterdir():
        if path.suffix == ".pth" or path.name == "__pycache__" or _project(path) in _UNWANTED:
            continue
        if path.suffix == ".dist-info":
            _copy_metadata(path, packages / path.name)
        else:
            (modules / path.name).symlink_to(path.resolve())
    return Environment(folder, index)


def _project(path: Path) -> str:
    """Return the project that a folder of modules or metadata belongs to, by its name."""
    return canonicalize_name(path.name.split("-", 1)[0])


def _copy_metadata(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
