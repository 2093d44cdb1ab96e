"""The environment that `farm run` installs into in the end, as a user would."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import BuildFailed, DiskFull, VerifyFailed
from ci.files import NO_ROOM
from ci.output import last_line, reports_full_disk
from ci.platforms import venv
from index_site.projects import COMPAT_PROJECT, PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.platforms.venv import VirtualEnvironment
    from ci.progress import Reporter

_FACTS = """
import pathlib, platform, torch
print(pathlib.Path(torch.__file__).parents[1], platform.python_version(), torch.__version__, sep="\\n")
"""


@dataclass(frozen=True)
class Trial:
    """A virtual environment with torch."""

    environment: VirtualEnvironment
    torch_site: Path
    """The site-packages folder that torch is imported from."""
    description: str
    """Such as ``Python 3.12.3 and torch 2.13.0``."""

    def install(self, requirements: Mapping[str, str], page: Path) -> None:
        """Install projects of this tree from a flat page of links alone, and import them.

        The projects are uninstalled first: the bytes of a version may have changed since the last run.

        Args:
            requirements: requirement, such as ``flash-attn3==0.1.0`` -> module to import.
            page: the page of links.

        Raises:
            VerifyFailed: pip failed, or an installed module cannot be imported.
        """
        pip = (*self.environment.pip, "--quiet")
        source = ("--no-index", "--no-cache-dir", "--find-links", page.as_uri())
        for arguments in (
            (*pip, "uninstall", "--yes", PROJECT, COMPAT_PROJECT),
            (*pip, "install", *source, *requirements),
            (*pip, "check"),
            (self.environment.python, "-I", "-c", f"import {', '.join(requirements.values())}"),
        ):
            command = [str(argument) for argument in arguments]
            result = subprocess.run(
                command, check=False, capture_output=True, text=True, pass_fds=self.environment.locks
            )
            if result.returncode != 0:
                text = (result.stderr or result.stdout).strip()
                raise VerifyFailed(f"{' '.join(command)} ended with {result.returncode}: {text}")

    def self_description(self) -> tuple[str, ...]:
        """Return the output of ``python -m flash_attn3``: the installed package and this machine."""
        command = [str(self.environment.python), "-I", "-m", "flash_attn3"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)  # not 0 without a GPU
        return tuple(result.stdout.splitlines())


def trial_environment(
    environment: VirtualEnvironment, *, python: Path, torch: str, torch_site: Path | None, progress: Reporter
) -> Trial:
    """Return the environment with torch, created anew if its Python or torch changed.

    Args:
        environment: its folder, and the locks that the caller holds.
        python: the interpreter to create it with.
        torch: the requirement by which pip installs torch.
        torch_site: a site-packages folder whose torch is used instead, through a ``.pth`` file.
        progress: receives a line when torch has to be installed.

    Raises:
        BuildFailed: it cannot be created, or pip cannot install torch.
        DiskFull: there is no room for it.
    """
    version = _run([python, "-I", "-c", "import sys; print(sys.version)"], "the Python cannot be run")
    inputs = f"{version}{torch_site or torch}\n"
    if not environment.is_made_from(inputs):
        source = f"the torch of {torch_site}" if torch_site else f"{torch} (pip may download gigabytes)"
        progress.say(f"environment: {environment.folder}, with {source}")
        with _failing("no virtual environment could be made"):
            environment.create(python)
        if torch_site is None:
            _install_torch(environment, torch)
        else:
            # venv of Python 3.10 and 3.11 installs a setuptools that would hide the one of torch_site.
            remove = [*environment.pip, "--quiet", "uninstall", "--yes", "setuptools"]
            _run(remove, "the environment cannot be changed")
            with _failing("the environment cannot be run"):
                environment.add_to_path("torch", torch_site.resolve())
        environment.mark_made_from(inputs)
    facts = _run([environment.python, "-I", "-c", _FACTS], "torch cannot be imported").splitlines()
    return Trial(environment, Path(facts[0]), f"Python {facts[1]} and torch {facts[2]}")


def _install_torch(environment: VirtualEnvironment, torch: str) -> None:
    """Install torch with the user's own pip configuration, showing pip's progress on a terminal."""
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [*environment.pip, "install", torch, *quiet]
    # pip's output goes to standard error: standard output holds results only.
    if subprocess.run(command, check=False, stdout=sys.stderr, pass_fds=environment.locks).returncode != 0:
        raise BuildFailed(f"pip could not install {torch}; its message is above")


def _run(command: Sequence[str | Path], failure: str) -> str:
    with _failing(failure):
        return venv.run(command)


@contextmanager
def _failing(failure: str) -> Iterator[None]:
    """Turn the failure of a child process into the farm's error, with ``failure`` as its first words."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else BuildFailed
        raise kind(f"{failure}: {error}") from error
    except subprocess.CalledProcessError as error:
        if reports_full_disk(error.stderr):
            raise DiskFull(f"{failure}: no room left on its disk") from error
        raise BuildFailed(f"{failure}: {last_line(error.stderr, 'it wrote no message')}") from error
