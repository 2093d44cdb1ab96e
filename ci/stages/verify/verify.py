"""Checks a site as its users will meet it."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import uv
from packaging.specifiers import SpecifierSet

from ci.errors import VerifyFailed
from ci.platforms.environment import Interpreter, ProgramError, inspect_interpreter, run
from ci.stages.revise import stored_manifest
from ci.stages.verify.installation import Installation
from ci.stages.verify.served_site import check_served, check_store
from ci.stages.verify.tools import offline, pip_lock, snapshot_tool, uv_project
from ci.store.folder import as_store
from index_site.manifest import CHANNELS, Channel, Manifest, Wheel
from index_site.projects import PROJECT
from index_site.releases import has_compat, newest_release
from index_site.snippets import compat_snippet, snippets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ci.check import Check
    from ci.progress import Reporter
    from ci.stages.verify.tools import Tool
    from ci.store.store import Store


def verify(
    *,
    site: Store | Path,
    python: Path,
    progress: Reporter,
    address: str | None = None,
    all_tools: bool = False,
    torch_site: Path | None = None,
    wheelhouse: Path | None = None,
) -> tuple[Check, ...]:
    """Serve a site, check every file, page and link, and install from it.

    For each channel, every installation command that the page shows is run in a fresh environment, and the
    package is imported. A channel without a wheel for this interpreter, or with the same release as
    ``stable``, is skipped.

    Args:
        site: the site, or the folder of one.
        python: the interpreter to create the environments with.
        progress: receives one line a check.
        address: where another server serves the site; None to serve it here.
        all_tools: whether to install by lock files, from a folder without a network, and from the newest
            snapshot, too.
        torch_site: a site-packages folder that holds torch and its dependencies. Without one they are
            installed first, as the wheel's metadata requires.
        wheelhouse: a folder of wheels to install torch from, instead of the public index.

    Raises:
        VerifyFailed: a check failed, the interpreter cannot be run or torch cannot be installed; the text
            lists the failed checks.
        CorruptManifest: the folder holds no manifest, or one that cannot be read.
    """
    store = as_store(site)
    manifest, _ = stored_manifest(store)
    interpreter = inspect_interpreter(python)
    checks: list[Check] = []

    def add(results: Iterable[Check]) -> None:
        for check in results:
            progress.say(f"{'ok' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
            checks.append(check)

    serving = store.served() if address is None else nullcontext(f"{address.rstrip('/')}/")
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch, serving as base:
        work = Path(scratch)
        add((*check_served(base, manifest), check_store(store, manifest)))
        releases = list(_releases(manifest, interpreter))
        if not releases:
            progress.warn(f"nothing was installed: no wheel is for Python {interpreter.version} here")
        for channel, release in releases:
            wheel = next(wheel for wheel in release if _fits(wheel, interpreter))
            installation = Installation(
                wheel=wheel,
                interpreter=interpreter,
                torch_site=torch_site or _installed(wheel, interpreter, wheelhouse, work / "dependencies"),
                index=f"{base}{channel}/simple/",
                work=work,
            )
            compat = (compat_snippet(base, channel),) if has_compat(manifest, channel, release) else ()
            ways = (*snippets(base, channel, release), *compat)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                add(pool.map(installation.check, [f"{channel}: {way.title}" for way in ways], ways))
            if all_tools and (channel, release) == releases[0]:
                tools = _tools(manifest, interpreter)
                add(installation.check_tool(name, tool, base) for name, tool in tools.items())
    failed = [check for check in checks if not check.ok]
    if failed:
        listing = "".join(f"\n  {check.name}: {check.detail}" for check in failed)
        raise VerifyFailed(f"{store.name}: {len(failed)} of {len(checks)} checks failed:{listing}")
    return tuple(checks)


def _tools(manifest: Manifest, interpreter: Interpreter) -> dict[str, Tool]:
    tools: dict[str, Tool] = {"uv lock, uv sync": uv_project, "pip lock": pip_lock, "offline": offline}
    if manifest.snapshots:
        date = manifest.snapshots[-1].date
        tools[f"snapshot {date}"] = snapshot_tool(date, interpreter)
    return tools


def _releases(manifest: Manifest, interpreter: Interpreter) -> Iterator[tuple[Channel, tuple[Wheel, ...]]]:
    """Yield each channel with the release that an installer selects from it, each release once."""
    seen: set[str] = set()
    for channel in CHANNELS:
        ours = [wheel for wheel in manifest.on_channel(channel) if wheel.project == PROJECT]
        release = newest_release([wheel for wheel in ours if _fits(wheel, interpreter)])
        if release and release[0].version not in seen:
            version = release[0].version
            seen.add(version)
            yield channel, tuple(wheel for wheel in ours if wheel.version == version and wheel.yanked is None)


def _fits(wheel: Wheel, interpreter: Interpreter) -> bool:
    required = SpecifierSet(wheel.requires_python)
    return not interpreter.tags.isdisjoint(wheel.tags) and required.contains(
        interpreter.version, prereleases=True
    )


def _installed(wheel: Wheel, interpreter: Interpreter, wheelhouse: Path | None, folder: Path) -> Path:
    """Install the requirements of a wheel into a folder, unless the folder exists; return the folder."""
    if not folder.exists():
        source = ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []
        target = ["--target", str(folder), "--python", str(interpreter.python)]
        try:
            run([uv.find_uv_bin(), "pip", "install", *target, *source, *wheel.requires_dist], env=os.environ)
        except ProgramError as error:
            raise VerifyFailed(
                f"torch cannot be installed: {error}; give a torch_site or a wheelhouse"
            ) from error
    return folder
