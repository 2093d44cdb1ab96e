"""Creates the virtual environments that the scripts run in; standard library only, Python 3.10 or newer."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of scripts/

from ci.platforms.venv import VirtualEnvironment  # noqa: E402 (found through the path above)


def ready_environment(folder: Path, requirements: Path, extra: tuple[str, ...] = ()) -> Path:
    """Return the Python of the environment in ``folder``, created anew if its requirements changed.

    Args:
        folder: of the environment.
        requirements: a file of exact versions with hashes.
        extra: requirements without hashes, which pip resolves by the user's own configuration.

    Raises:
        SystemExit: it cannot be created; the text says why.
    """
    environment = VirtualEnvironment(folder)
    inputs = hashlib.sha256(
        f"{sys.version}\n{ROOT}\n{extra}\n".encode() + requirements.read_bytes()
    ).hexdigest()
    if environment.is_made_from(inputs):
        return environment.python
    print(f"setting up {folder.relative_to(ROOT)} (once)", file=sys.stderr)
    try:
        environment.create(Path(sys.executable))
    except subprocess.CalledProcessError:
        sys.exit("error: this Python cannot make virtual environments; on Debian: apt install python3-venv")
    _pip(environment.python, "--require-hashes", "-r", str(requirements))
    if extra:
        _pip(environment.python, *extra)
    environment.add_to_path("this_tree", ROOT)
    environment.mark_made_from(inputs)
    return environment.python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"error: pip could not install {arguments[-1]} (its message is above)")
