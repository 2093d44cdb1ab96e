"""Runs one installation command in a fresh environment and imports what it installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from ci.check import Check
from ci.platforms.environment import Environment, Interpreter, ProgramError, fresh_environment
from ci.stages.verify.tools import ToolAbsent

if TYPE_CHECKING:
    from ci.stages.verify.tools import Tool
    from index_site.manifest import Wheel
    from index_site.snippets import Snippet

_IMPORT = "import flash_attn3; print(flash_attn3.__version__); print(flash_attn3.__file__)"


@dataclass(frozen=True)
class Installation:
    """The installation of one release, in an environment of its own for each command."""

    wheel: Wheel
    """The wheel of the release that the command must install."""
    interpreter: Interpreter
    torch_site: Path
    """A site-packages folder with torch, which counts as installed."""
    index: str
    """The address that replaces the public index."""
    work: Path
    """The folder of the environments."""

    def check(self, name: str, way: Snippet) -> Check:
        """Install in one way; a failure is a failed check called ``name``."""
        try:
            environment, cwd = self._environment(way.key)
            if way.file_name:
                (cwd / way.file_name).write_text(way.file_text, encoding="utf-8")
            environment.shell(way.command, cwd=cwd)
            detail = _imported(environment, cwd, way.command, self.wheel.version, way.modules)
        except ProgramError as error:
            return Check(name, ok=False, detail=str(error))
        return Check(name, ok=True, detail=detail)

    def check_tool(self, name: str, tool: Tool, base: str) -> Check:
        """Install from the site at ``base`` by a tool; a tool that is absent is a check that says so."""
        try:
            environment, cwd = self._environment(name.replace(" ", "-"))
            version = tool(environment, cwd, base, self.wheel)
            detail = _imported(environment, cwd, name, version)
        except ToolAbsent as error:
            return Check(name, ok=True, detail=f"skipped: {error}")
        except (ProgramError, requests.RequestException) as error:
            return Check(name, ok=False, detail=str(error))
        return Check(name, ok=True, detail=detail)

    def _environment(self, key: str) -> tuple[Environment, Path]:
        """Return a fresh environment and an empty folder in it."""
        environment = fresh_environment(
            self.work / f"{self.wheel.channel}-{key}",
            interpreter=self.interpreter,
            torch_site=self.torch_site,
            index=self.index,
        )
        cwd = environment.folder / "project"
        cwd.mkdir()
        return environment, cwd


def _imported(
    environment: Environment, cwd: Path, command: str, wanted: str, modules: tuple[str, ...] = ()
) -> str:
    """Import what a command installed; raise unless it is this version, in this environment."""
    code = "".join(f"import {module}\n" for module in modules) + _IMPORT
    version, place = environment.python_output(code, cwd=cwd).splitlines()[-2:]
    if version != wanted:
        raise ProgramError(f"{command} installed {version}, should have been {wanted}")
    if not Path(place).resolve().is_relative_to(environment.folder.resolve()):
        raise ProgramError(f"{command} installed nothing: flash_attn3 is imported from {place}")
    return f"installed and imported {', '.join(('flash_attn3', *modules))} {version}"
