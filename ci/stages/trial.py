"""The environment that a run installs into in the end: what a user would have."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import BuildFailed, DiskFull, VerifyFailed
from index_site.projects import COMPAT_PROJECT, PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.progress import Reporter

_STAMP = "made-from"
_SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
_FACTS = """
import pathlib, platform, torch
print(pathlib.Path(torch.__file__).parents[1], platform.python_version(), torch.__version__, sep="\\n")
"""


@dataclass(frozen=True)
class Trial:
    """A virtual environment that holds torch."""

    folder: Path
    torch_site: Path
    """The site-packages folder that torch is imported from."""
    description: str
    """Such as ``Python 3.12.3 and torch 2.13.0``."""

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.folder / "bin" / "python"

    def install(self, projects: Mapping[str, str], version: str, page: Path) -> None:
        """Install projects of this tree from a flat page of links and nowhere else, and import them.

        Whatever this tree installed before is removed first, for the bytes of a version may have changed.

        Args:
            projects: the projects, each with the module by which it is imported.
            version: of every one.
            page: the page of links.

        Raises:
            VerifyFailed: if pip cannot, or what it installed cannot be imported.
        """
        pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
        source = ("--no-index", "--no-cache-dir", "--find-links", page.as_uri())
        for arguments in (
            (*pip, "uninstall", "--yes", PROJECT, COMPAT_PROJECT),
            (*pip, "install", *source, *(f"{project}=={version}" for project in projects)),
            (*pip, "check"),
            ("-I", "-c", f"import {', '.join(projects.values())}"),
        ):
            command = [str(self.python), *arguments]
            result = subprocess.run(command, check=False, capture_output=True, text=True)
            if result.returncode != 0:
                text = (result.stderr or result.stdout).strip()
                raise VerifyFailed(f"{' '.join(command)} ended with {result.returncode}: {text}")

    def says(self) -> tuple[str, ...]:
        """Return the lines by which the installed package describes itself and this machine."""
        command = [str(self.python), "-I", "-m", "flash_attn3"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)  # not 0 without a GPU
        return tuple(result.stdout.splitlines())


def trial_environment(
    folder: Path, *, python: Path, torch: str, torch_site: Path | None, progress: Reporter
) -> Trial:
    """Return the environment in ``folder``, made of ``python`` with torch in it, or one made so before.

    Args:
        folder: where to make it.
        python: the interpreter it is of.
        torch: the requirement by which pip installs torch.
        torch_site: a site-packages folder whose torch is used instead, through a ``.pth`` file.
        progress: is told when torch has to be fetched.

    Raises:
        BuildFailed: if it cannot be made, or pip cannot install torch.
        DiskFull: if there is no room for it.
    """
    version = _run([python, "-I", "-c", "import sys; print(sys.version)"], "the Python cannot be run")
    wanted = f"{version}{torch_site or torch}\n"
    stamp = folder / _STAMP
    inside = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        source = f"the torch of {torch_site}" if torch_site else f"{torch} (pip may have gigabytes to fetch)"
        progress.say(f"environment: {folder}, with {source}")
        _run([python, "-I", "-m", "venv", "--clear", folder], "no virtual environment could be made")
        if torch_site is None:
            _install_torch(inside, torch)
        else:
            # Older Pythons bring a setuptools of their own, which would hide the one that torch asks for.
            remove: list[str | Path] = [inside, "-m", "pip", "--quiet", "uninstall", "--yes", "setuptools"]
            _run(remove, "the environment cannot be changed")
            own = _run([inside, "-I", "-c", _SITE_PACKAGES], "the environment cannot be run").strip()
            (Path(own) / "torch.pth").write_text(f"{torch_site.resolve()}\n", encoding="utf-8")
        stamp.write_text(wanted, encoding="utf-8")  # last: an environment without it was interrupted
    facts = _run([inside, "-I", "-c", _FACTS], "torch cannot be imported").splitlines()
    return Trial(folder, Path(facts[0]), f"Python {facts[1]} and torch {facts[2]}")


def _install_torch(python: Path, torch: str) -> None:
    """Let pip install torch as the user has set it up, showing its own progress on a terminal."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", torch]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # What pip says goes to standard error: standard output is for results.
    if subprocess.run([*pip, *quiet], check=False, stdout=sys.stderr).returncode != 0:
        raise BuildFailed(f"pip could not install {torch}; its message is above")


def _run(command: list[str | Path], failure: str) -> str:
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise BuildFailed(f"{failure}: {error}") from error
    if result.returncode != 0:
        text = result.stderr.strip()
        if "No space left on device" in text:
            raise DiskFull(f"{failure}: no room left on its disk")
        raise BuildFailed(f"{failure}: {text.splitlines()[-1] if text else 'without a word'}")
    return result.stdout
