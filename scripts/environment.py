"""Make the virtual environments that the scripts run in; standard library only, Python 3.10 or newer."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def ready_environment(folder: Path, requirements: Path, extra: tuple[str, ...] = ()) -> Path:
    """Return the Python of the environment in ``folder``, made anew if what it should hold has changed.

    Args:
        folder: the environment.
        requirements: a file of exact versions with hashes.
        extra: requirements without hashes, resolved by pip as the user has set it up.

    Raises:
        SystemExit: if it cannot be made; the text says why.
    """
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(
        f"{sys.version}\n{ROOT}\n{extra}\n".encode() + requirements.read_bytes()
    ).hexdigest()
    stamp = folder / "made-from"  # written last: an environment without it was interrupted
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"setting up {folder.relative_to(ROOT)} (once)", file=sys.stderr)
    try:
        venv.create(folder, clear=True, with_pip=True)
    except subprocess.CalledProcessError:
        sys.exit("error: this Python cannot make virtual environments; on Debian: apt install python3-venv")
    _pip(python, "--require-hashes", "-r", str(requirements))
    if extra:
        _pip(python, *extra)
    _add_to_path(python, ROOT)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"error: pip could not install {arguments[-1]} (its message is above)")


def _add_to_path(python: Path, root: Path) -> None:
    """Let the environment import this tree from any folder it is started in."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "this_tree.pth").write_text(f"{root}\n", encoding="utf-8")
