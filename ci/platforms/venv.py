"""Virtual environments: creating one, running its Python, remembering what it was made from.

Standard library only: ``scripts/environment.py`` imports it before any environment exists.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_STAMP = "made-from"
_SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


@dataclass(frozen=True)
class VirtualEnvironment:
    """A folder that holds, or will hold, a virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    def create(self, python: Path, *, pip: bool = True) -> None:
        """Create the environment with an interpreter, replacing what is in the folder.

        Raises:
            OSError: the interpreter cannot be started.
            subprocess.CalledProcessError: it cannot create environments; ``stderr`` and ``stdout`` say why.
        """
        options = ["--clear", *([] if pip else ["--without-pip"])]
        run([python, "-I", "-m", "venv", *options, self.folder])

    def add_to_path(self, name: str, folder: Path) -> None:
        """Append a folder to ``sys.path`` of the environment, through the file ``NAME.pth``.

        Raises:
            subprocess.CalledProcessError: the environment's Python cannot be run.
        """
        (self.site_packages() / f"{name}.pth").write_text(f"{folder}\n", encoding="utf-8")

    def site_packages(self) -> Path:
        """Return the folder that pip installs into.

        Raises:
            subprocess.CalledProcessError: the environment's Python cannot be run.
        """
        return Path(run([self.python, "-I", "-c", _SITE_PACKAGES]).strip())

    def is_made_from(self, inputs: str) -> bool:
        """Return whether the environment is complete and was made from these inputs."""
        stamp = self.folder / _STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == inputs

    def mark_made_from(self, inputs: str) -> None:
        """Record the inputs, as the last step: an environment without the record was interrupted."""
        (self.folder / _STAMP).write_text(inputs, encoding="utf-8")


def run(command: list[str | Path]) -> str:
    """Run a program and return what it wrote to standard output.

    Raises:
        OSError: it cannot be started.
        subprocess.CalledProcessError: it failed; the error holds its output.
    """
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
