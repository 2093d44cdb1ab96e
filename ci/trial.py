"""The environment that a run installs into in the end: what a user would have."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import BuildFailed, DiskFull, VerifyFailed

if TYPE_CHECKING:
    from ci.progress import Reporter

_STAMP = "made-from"
_FACTS = """
import platform, sysconfig, torch
print(sysconfig.get_path("purelib"), platform.python_version(), torch.__version__, sep="\\n")
"""


@dataclass(frozen=True)
class Trial:
    """A virtual environment that holds torch."""

    folder: Path
    site_packages: Path
    description: str
    """Such as ``Python 3.12.3 and torch 2.13.0``."""

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.folder / "bin" / "python"

    def install(self, project: str, version: str, page: Path) -> None:
        """Install a project from a flat page of links and nowhere else, replacing any other build of it.

        Raises:
            VerifyFailed: if pip cannot, or what it installed cannot be imported.
        """
        pip = [str(self.python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        source = ["--no-index", "--no-cache-dir", "--find-links", page.as_uri()]
        for command in (
            [*pip, "uninstall", "--yes", project],
            [*pip, "install", *source, f"{project}=={version}"],
            [*pip, "check"],
            [str(self.python), "-I", "-m", project.replace("-", "_")],
        ):
            result = subprocess.run(command, check=False, capture_output=True, text=True)
            if result.returncode != 0:
                text = (result.stderr or result.stdout).strip()
                raise VerifyFailed(f"{' '.join(command)} ended with {result.returncode}: {text}")


def trial_environment(folder: Path, *, python: Path, torch: str, progress: Reporter) -> Trial:
    """Return the environment in ``folder``, made of ``python`` with torch in it, or one made so before.

    Raises:
        BuildFailed: if it cannot be made, or pip cannot install torch.
        DiskFull: if there is no room for it.
    """
    wanted = (
        f"{_run([python, '-I', '-c', 'import sys; print(sys.version)'], 'the Python cannot be run')}{torch}\n"
    )
    stamp = folder / _STAMP
    inside = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        progress.say(f"environment: {folder}, with {torch} (pip may have gigabytes to fetch)")
        _run([python, "-I", "-m", "venv", "--clear", folder], "no virtual environment could be made")
        install: list[str | Path] = [
            inside,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            torch,
        ]
        _run(install, f"pip could not install {torch}")
        stamp.write_text(wanted, encoding="utf-8")  # last: an environment without it was interrupted
    facts = _run([inside, "-I", "-c", _FACTS], "torch cannot be imported").splitlines()
    return Trial(folder, Path(facts[0]), f"Python {facts[1]} and torch {facts[2]}")


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
