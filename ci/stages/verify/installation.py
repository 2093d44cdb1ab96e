"""Runs one installation command in a fresh environment and imports what it installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.check import Check
from ci.platforms.environment import Environment, Interpreter, ProgramError, fresh_environment

if TYPE_CHECKING:
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
            environment = fresh_environment(
                self.work / f"{self.wheel.channel}-{way.key}",
                interpreter=self.interpreter,
                torch_site=self.torch_site,
                index=self.index,
            )
            return Check(name, ok=True, detail=self._install(way, environment))
        except ProgramError as error:
            return Check(name, ok=False, detail=str(error))

    def _install(self, way: Snippet, environment: Environment) -> str:
        cwd = environment.folder / "project"
        cwd.mkdir()
        if way.file_name:
            (cwd / way.file_name).write_text(way.file_text, encoding="utf-8")
        environment.shell(way.command, cwd=cwd)
        code = "".join(f"import {module}\n" for module in way.modules) + _IMPORT
        version, place = environment.python_output(code, cwd=cwd).splitlines()[-2:]
        if version != self.wheel.version:
            raise ProgramError(f"{way.command} installed {version}, should have been {self.wheel.version}")
        if not Path(place).resolve().is_relative_to(environment.folder.resolve()):
            raise ProgramError(f"{way.command} installed nothing: flash_attn3 is imported from {place}")
        return f"installed and imported {', '.join(('flash_attn3', *way.modules))} {version}"
