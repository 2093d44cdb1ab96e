"""Fresh environments in which torch is present, to try an installer in without downloading torch again."""

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

_UNWANTED = frozenset({"flash-attn3", "flash-attn-3"})
_LAST_LINES = 12
_TAGS = "import sys; sys.path.append(sys.argv[1]); from packaging import tags; print(*tags.sys_tags())"
_VERSION = "import platform; print(platform.python_version())"
_SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


class ProgramError(Exception):
    """A program ended with an error; the text holds the last lines it wrote."""


@dataclass(frozen=True)
class Interpreter:
    """A Python, its version, and the wheel tags that it installs."""

    python: Path
    version: str
    tags: frozenset[str]


def inspect_interpreter(python: Path) -> Interpreter:
    """Ask an interpreter what it is.

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
        ProgramError: it ended with an error.
    """
    result = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = (result.stdout + result.stderr).strip().splitlines()[-_LAST_LINES:]
        raise ProgramError(
            f"{shlex.join(map(str, argv))} ended with {result.returncode}:\n" + "\n".join(lines)
        )
    return result.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment, whose installers know no configuration but what they are given here."""

    folder: Path
    index: str

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    def shell(self, command: str, *, cwd: Path) -> str:
        """Run a command line as a person would in this environment.

        ``pip`` and ``uv`` are the farm's, at work on this environment.

        Raises:
            ProgramError: it ended with an error.
        """
        program, *arguments = shlex.split(command)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", self.python]
        known: dict[str, list[str | Path]] = {"pip": pip, "uv": [uv.find_uv_bin()]}
        return run([*known.get(program, [program]), *arguments], env=self._variables(), cwd=cwd)

    def python_output(self, code: str, *, cwd: Path) -> str:
        """Run Python code in the environment and return what it printed.

        Raises:
            ProgramError: it ended with an error.
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
            # torch is there already; that nothing asks the public index also shows that nothing needs it.
            "UV_DEFAULT_INDEX": self.index,
            "UV_PYTHON_DOWNLOADS": "never",
        }


def fresh_environment(folder: Path, *, interpreter: Interpreter, torch_site: Path, index: str) -> Environment:
    """Make a virtual environment in which the distributions of ``torch_site`` count as installed.

    A ``.pth`` file alone would do for pip, but uv looks for distributions in the environment's own folder
    only. So their metadata is copied there, and their modules are found through a folder of links that the
    ``.pth`` names: no installer, whatever it tries, can then write to ``torch_site``.

    Args:
        folder: where to make it.
        interpreter: the Python it is of.
        torch_site: a site-packages folder that holds torch and what torch needs.
        index: the address that takes the place of the public index.

    Raises:
        ProgramError: the environment cannot be made.
    """
    environment = Environment(folder, index)
    run([interpreter.python, "-I", "-m", "venv", "--without-pip", folder], env=os.environ)
    packages = Path(environment.python_output(_SITE_PACKAGES, cwd=folder).strip())
    modules = folder / "torch-modules"
    modules.mkdir()
    for path in torch_site.iterdir():
        if path.suffix == ".pth" or path.name == "__pycache__" or _project(path) in _UNWANTED:
            continue
        if path.suffix == ".dist-info":
            _copy_metadata(path, packages / path.name)
        else:
            (modules / path.name).symlink_to(path.resolve())
    (packages / "torch-modules.pth").write_text(f"{modules}\n", encoding="utf-8")
    return environment


def _project(path: Path) -> str:
    """Return the project that a folder of modules or of metadata is named for."""
    return canonicalize_name(path.name.split("-", 1)[0])


def _copy_metadata(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
