"""The verify stage: serve a site, compare it with its manifest, and install from it as its page says."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uv
from packaging.specifiers import SpecifierSet

from ci.check import Check
from ci.errors import VerifyFailed
from ci.platforms.environment import (
    Environment,
    Interpreter,
    ProgramError,
    fresh_environment,
    inspect_interpreter,
    run,
)
from ci.stages.served_site import check_served
from ci.store.serve import served
from index_site.manifest import CHANNELS, Channel, Manifest, Wheel, read_manifest
from index_site.projects import PROJECT
from index_site.releases import has_compat, newest_release
from index_site.snippets import Snippet, compat_snippet, snippets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.progress import Reporter

_IMPORT = "import flash_attn3; print(flash_attn3.__version__); print(flash_attn3.__file__)"


def verify(
    *,
    site: Path,
    python: Path,
    progress: Reporter,
    torch_site: Path | None = None,
    wheelhouse: Path | None = None,
) -> tuple[Check, ...]:
    """Check a site as its users will meet it.

    The site is served on this machine; every file and page is compared with the manifest and every link
    followed. Then, for each channel, every way to install that the page shows is carried out in a fresh
    environment, and the package imported. A channel is passed over where it has no wheel for this
    interpreter, or the same one as stable.

    Args:
        site: the folder of the site.
        python: the interpreter to make environments of.
        progress: is told of each check.
        torch_site: a site-packages folder that already holds torch and what torch needs. Without one they are
            installed first, as the wheel's metadata asks.
        wheelhouse: a folder of wheels to install them from instead of from the public index.

    Raises:
        VerifyFailed: a check failed, the interpreter cannot be run or torch cannot be had; the text lists
            what failed.
        CorruptManifest: the folder holds no site, or its manifest cannot be read.
    """
    manifest = read_manifest(site)
    interpreter = inspect_interpreter(python)
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch, served(site) as base:
        work = Path(scratch)
        checks.extend(_told(check, progress) for check in check_served(base, manifest))
        picks = list(_picks(manifest, interpreter))
        if not picks:
            progress.warn(f"nothing was installed: no wheel is for Python {interpreter.version} here")
        for channel, release in picks:
            wheel = next(wheel for wheel in release if _fits(wheel, interpreter))
            trial = _Trial(
                wheel=wheel,
                interpreter=interpreter,
                torch_site=torch_site or _installed(wheel, interpreter, wheelhouse, work / "dependencies"),
                index=f"{base}{channel}/simple/",
                work=work,
            )
            compat = (compat_snippet(base, channel),) if has_compat(manifest, channel, release) else ()
            ways = (*snippets(base, channel, release), _from_json(base, channel), *compat)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                names = [f"{channel}: {way.title}" for way in ways]
                checks.extend(_told(check, progress) for check in pool.map(trial.check, names, ways))
    failed = [check for check in checks if not check.ok]
    if failed:
        listing = "".join(f"\n  {check.name}: {check.detail}" for check in failed)
        raise VerifyFailed(f"{site}: {len(failed)} of {len(checks)} checks failed:{listing}")
    return tuple(checks)


def _told(check: Check, progress: Reporter) -> Check:
    progress.say(f"{'ok' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
    return check


def _picks(manifest: Manifest, interpreter: Interpreter) -> Iterator[tuple[Channel, tuple[Wheel, ...]]]:
    """Yield the release that an installer takes from each channel, once."""
    seen: set[str] = set()
    for channel in CHANNELS:
        ours = [wheel for wheel in manifest.on_channel(channel) if wheel.project == PROJECT]
        release = newest_release([wheel for wheel in ours if _fits(wheel, interpreter)])
        if release and release[0].version not in seen:
            version = release[0].version
            seen.add(version)
            yield channel, tuple(wheel for wheel in ours if wheel.version == version and wheel.yanked is None)


def _fits(wheel: Wheel, interpreter: Interpreter) -> bool:
    asked = SpecifierSet(wheel.requires_python)
    return not interpreter.tags.isdisjoint(wheel.tags) and asked.contains(
        interpreter.version, prereleases=True
    )


def _installed(wheel: Wheel, interpreter: Interpreter, wheelhouse: Path | None, folder: Path) -> Path:
    """Install what a wheel requires into a folder, unless that was done, and return the folder."""
    if not folder.exists():
        source = ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []
        target = ["--target", str(folder), "--python", str(interpreter.python)]
        try:
            run([uv.find_uv_bin(), "pip", "install", *target, *source, *wheel.requires_dist], env=os.environ)
        except ProgramError as error:
            raise VerifyFailed(f"torch cannot be had: {error}; give a torch_site or a wheelhouse") from error
    return folder


def _from_json(base: str, channel: Channel) -> Snippet:
    """Install from the tree that no line on the page names; hosts that negotiate give it to installers."""
    command = f"uv pip install --default-index {base}{channel}/simple/v1+json/ {PROJECT}"
    return Snippet("json", "uv, from the JSON tree", base, command)


@dataclass(frozen=True)
class _Trial:
    """Installs one release, each way in an environment of its own, and expects one wheel of it."""

    wheel: Wheel
    interpreter: Interpreter
    torch_site: Path
    index: str
    work: Path

    def check(self, name: str, way: Snippet) -> Check:
        try:
            folder = self.work / f"{self.wheel.channel}-{way.key}"
            environment = fresh_environment(
                folder,
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
            raise ProgramError(f"{way.command} left flash_attn3 to be imported from {place}")
        return f"installed and imported {', '.join(('flash_attn3', *way.modules))} {version}"
