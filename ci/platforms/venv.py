"""Virtual environments: creating one, its Python and pip, what it was made from, and who uses it.

Standard library only: ``scripts/environment.py`` imports it before any environment exists. POSIX only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STAMP = "made-from"
"""The file that marks a folder as the farm's: empty until the environment is complete."""
_SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


@dataclass(frozen=True)
class VirtualEnvironment:
    """A folder that holds, or will hold, a virtual environment."""

    folder: Path
    locks: tuple[int, ...] = ()
    """File descriptors that every program that writes to the environment inherits: of the lock that its owner
    holds. Where the owner is killed, the next one waits until these programs end."""

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def pip(self) -> tuple[str | Path, ...]:
        """The start of every command line of pip: pip refuses if this is not an environment (any more)."""
        options = ("--require-virtualenv", "--disable-pip-version-check")
        return self.python, "-I", "-m", "pip", *options

    def create(self, python: Path, *, pip: bool = True) -> None:
        """Create the environment with an interpreter, replacing an earlier one in the folder.

        Raises:
            FileExistsError: the folder holds something else.
            OSError: the interpreter cannot be started, or the folder cannot be written.
            subprocess.CalledProcessError: it cannot create environments; ``stderr`` and ``stdout`` say why.
        """
        if self._is_foreign():
            raise FileExistsError(f"{self.folder}: holds files that the farm did not make; move them")
        self.remove()
        self.folder.mkdir(parents=True)
        (self.folder / _STAMP).touch()
        options = [] if pip else ["--without-pip"]
        run([python, "-I", "-m", "venv", *options, self.folder], inherited=self.locks)

    def remove(self) -> None:
        """Remove the environment, if it exists, and what killed removals left of it."""
        for left in self.folder.parent.glob(f".removed-*-{self.folder.name}"):
            shutil.rmtree(left, ignore_errors=True)
        if (self.folder / _STAMP).is_file():
            # In one step: a half-removed environment would have no mark, or a Python that is not isolated.
            removed = self.folder.with_name(f".removed-{os.getpid()}-{self.folder.name}")
            self.folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

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

    def keep(self) -> bool:
        """Keep others from removing the environment as long as this process runs, or the program it becomes.

        Returns:
            Whether the environment is there. Programs that inherit open files keep it, too.
        """
        stamp = self.folder / _STAMP
        try:
            descriptor = os.open(stamp, os.O_RDONLY)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_open(stamp, descriptor):  # removed while this process waited
            os.close(descriptor)
            return False
        os.set_inheritable(descriptor, True)
        return True

    def remove_unless_used(self) -> bool:
        """Remove the environment unless a process keeps it; return whether it is gone."""
        try:
            descriptor = os.open(self.folder / _STAMP, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self.remove()
            return True
        finally:
            os.close(descriptor)

    def _is_foreign(self) -> bool:
        try:
            return not (self.folder / _STAMP).is_file() and any(self.folder.iterdir())
        except FileNotFoundError:
            return False


def _is_open(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def run(command: Sequence[str | Path], *, inherited: Sequence[int] = ()) -> str:
    """Run a program, which inherits some file descriptors, and return what it wrote to standard output.

    Raises:
        OSError: it cannot be started.
        subprocess.CalledProcessError: it failed; the error holds its output.
    """
    return subprocess.run(command, check=True, capture_output=True, text=True, pass_fds=inherited).stdout
