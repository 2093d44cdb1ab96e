"""Creates the virtual environments that the scripts run in; standard library only, Python 3.10 or newer.

Each is a folder ``venvs/NAME-PYTHON-DIGEST`` of the work folder, named by what it is made of, so that another
Python or other requirements never touch one in use. ``venvs/NAME`` points to the latest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of scripts/

from ci.errors import FarmError, described  # noqa: E402 (found through the path above)
from ci.lock import lock  # noqa: E402
from ci.platforms.venv import VirtualEnvironment  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ELSEWHERE = frozenset({"PIP_PREFIX", "PIP_PYTHON", "PIP_ROOT", "PIP_TARGET", "PIP_USER"})
"""Variables that make pip install into something else than the environment."""


def run_script(name: str, main: Callable[[], None]) -> NoReturn:
    """Run a script; an expected failure is one line on standard error and an exit code."""
    try:
        main()
    except KeyboardInterrupt:
        _fail(f"{name}: error: interrupted; run the same command again to resume", 130)
    except FarmError as error:
        _fail(f"{name}: error: {error}", error.exit_code)
    except OSError as error:
        message = f"{described(error)}; FARM_WORK can name another work folder"
        _fail(f"{name}: error: {message}", FarmError.exit_code)
    sys.exit(0)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(exit_code)


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option on a command line; None if it is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, nargs="?", dest="value")  # the command itself refuses one without a value
    given, _ = parser.parse_known_args(arguments)
    value: str | None = given.value
    return value


def work_folder(arguments: Sequence[str] = ()) -> Path:
    """Return the work folder: of the option ``--work``, of ``FARM_WORK``, or ``.farm`` in the tree."""
    given = option(arguments, "--work")
    return Path(given or os.environ.get("FARM_WORK") or ROOT / ".farm").resolve()


def environment_name(arguments: Sequence[str]) -> str:
    """Return the environment of a farm command: ``ray`` for a cluster, ``s3`` for a bucket, else ``farm``."""
    if arguments[:1] == ["node"] or option(arguments, "--engine") == "ray":
        return "ray"
    return "s3" if (option(arguments, "--site") or "").startswith("s3://") else "farm"


def ready_environment(work: Path, name: str, requirements: Path, extra: tuple[str, ...] = ()) -> Path:
    """Return the Python of an environment, created if need be, that stays while this process runs.

    Args:
        work: the work folder.
        name: of the environment.
        requirements: a file of exact versions with hashes.
        extra: requirements without hashes, which pip resolves by the user's own configuration.

    Raises:
        FarmError: it cannot be created; the text says why.
        OSError: the work folder cannot be written.
    """
    inputs = hashlib.sha256(
        f"{sys.version}\n{ROOT}\n{extra}\n".encode() + requirements.read_bytes()
    ).hexdigest()
    family = f"{name}-py{sys.version_info.major}{sys.version_info.minor}-"
    environment = VirtualEnvironment(work / "venvs" / f"{family}{inputs[:12]}")
    while not (environment.is_made_from(inputs) and environment.keep()):
        with lock(work / "venvs", _say) as held:
            if not environment.is_made_from(inputs):
                _say(f"setting up {environment.folder} (once)")
                _make(replace(environment, locks=(held,)), requirements, extra)
                environment.mark_made_from(inputs)
            _point(work / "venvs" / name, environment.folder)
            for other in sorted((work / "venvs").glob(f"{family}*")):
                if other != environment.folder:
                    VirtualEnvironment(other).remove_unless_used()
    return environment.python


def _make(environment: VirtualEnvironment, requirements: Path, extra: tuple[str, ...]) -> None:
    try:
        environment.create(Path(sys.executable))
    except subprocess.CalledProcessError as error:
        raise FarmError(
            "this Python cannot make virtual environments; on Debian: apt install python3-venv"
        ) from error
    _pip(environment, "--require-hashes", "-r", str(requirements))
    if extra:
        _pip(environment, *extra)
    environment.add_to_path("this_tree", ROOT)


def _pip(environment: VirtualEnvironment, *arguments: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    command = [*environment.pip, "install", "-qq", *arguments]
    if subprocess.run(command, check=False, env=variables, pass_fds=environment.locks).returncode != 0:
        raise FarmError(f"pip could not install {arguments[-1]} (its message is above)")


def _point(link: Path, folder: Path) -> None:
    """Make a symbolic link in one step."""
    scratch = link.with_name(f".scratch-{os.getpid()}-{link.name}")
    scratch.symlink_to(folder.name)
    scratch.replace(link)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
