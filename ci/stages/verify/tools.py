"""Further ways to install, which take longer: lock files, a folder without a network, a snapshot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import requests
from packaging.utils import parse_wheel_filename

from ci.platforms.environment import ProgramError
from index_site.projects import PROJECT
from index_site.snippets import snippets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.platforms.environment import Environment, Interpreter
    from index_site.manifest import Wheel

    Tool = Callable[[Environment, Path, str, Wheel], str]

_TIMEOUT_S = 60
# torch is installed in the environment already, and not on this index.
_WITHOUT_TORCH = "\n[tool.uv]\noverride-dependencies = [\"torch; python_version < '3'\"]\n"


class ToolAbsent(Exception):
    """An installer cannot do what a check is for; the text says why."""


def uv_project(environment: Environment, cwd: Path, base: str, wheel: Wheel) -> str:
    """Lock and install a project with the ``pyproject.toml`` of the page.

    Args:
        environment: where to install; it holds torch.
        cwd: an empty folder.
        base: the address of the site, with its final slash.
        wheel: the wheel that an installer selects here.

    Returns:
        The version that is then installed. This and the arguments are the same for every tool.

    Raises:
        ProgramError: it failed.
        ToolAbsent: the installer cannot do this.
    """
    (page,) = (way for way in snippets(base, wheel.channel, [wheel]) if way.key == "pyproject")
    (cwd / page.file_name).write_text(page.file_text + _WITHOUT_TORCH, encoding="utf-8")
    environment.shell("uv lock", cwd=cwd)
    _require_sha256(cwd / "uv.lock", wheel)
    environment.shell("uv sync --active --inexact --frozen", cwd=cwd)
    return wheel.version


def pip_lock(environment: Environment, cwd: Path, base: str, wheel: Wheel) -> str:
    """Lock by pip, and install from its ``pylock.toml``."""
    try:
        environment.shell("pip lock --help", cwd=cwd)
    except ProgramError as error:
        raise ToolAbsent("this pip has no command lock") from error
    pip = f"pip lock --no-deps --index-url {base}{wheel.channel}/simple/"
    environment.shell(f"{pip} -o pylock.toml {wheel.project}=={wheel.version}", cwd=cwd)
    _require_sha256(cwd / "pylock.toml", wheel)
    environment.shell("pip install --no-deps -r pylock.toml", cwd=cwd)
    return wheel.version


def offline(environment: Environment, cwd: Path, base: str, wheel: Wheel) -> str:
    """Download into a folder, and install from this folder alone."""
    requirement = f"{wheel.project}=={wheel.version}"
    pip = f"pip download --no-deps --index-url {base}{wheel.channel}/simple/"
    environment.shell(f"{pip} -d wheels {requirement}", cwd=cwd)
    environment.shell(f"pip install --no-index --find-links wheels {requirement}", cwd=cwd)
    return wheel.version


def snapshot_tool(date: str, interpreter: Interpreter) -> Tool:
    """Return the tool that installs the newest version of a snapshot."""

    def install(environment: Environment, cwd: Path, base: str, wheel: Wheel) -> str:
        del wheel
        index = f"{base}{date}/simple/"
        answer = requests.get(f"{index}v1+json/{PROJECT}/index.json", timeout=_TIMEOUT_S)
        answer.raise_for_status()
        version = _newest(json.loads(answer.content)["files"], interpreter)
        environment.shell(f"pip install --index-url {index} {PROJECT}=={version}", cwd=cwd)
        return version

    return install


def _newest(files: list[dict[str, str]], interpreter: Interpreter) -> str:
    """Return the version of the last file, in the order of versions, that installers may select here."""
    for file in reversed(files):
        _, version, _, tags = parse_wheel_filename(file["filename"])
        if not file["yanked"] and not interpreter.tags.isdisjoint(map(str, tags)):
            return str(version)
    raise ToolAbsent("it holds no wheel for this Python")


def _require_sha256(lock: Path, wheel: Wheel) -> None:
    if wheel.sha256 not in lock.read_text(encoding="utf-8"):
        raise ProgramError(f"{lock.name} lacks the sha256 of {wheel.filename}")
