"""The status stage: sets the status of a project on the index, as PEP 792 defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.errors import FarmError, UnknownWheel
from ci.names import nearest
from ci.stages.revise import revise
from ci.store.folder import as_store
from index_site.manifest import Manifest, ProjectStatus, Status, without_collector

if TYPE_CHECKING:
    from pathlib import Path

    from ci.progress import Reporter
    from ci.store.store import Store


def set_status(
    *, site: Store | Path, project: str, status: Status, reason: str, progress: Reporter
) -> Manifest:
    """Set the status of a project, and return the site's new manifest.

    Args:
        site: the site, or the folder of one.
        project: its name, such as ``flash-attn3``.
        status: ``archived`` and ``quarantined`` refuse new wheels; the pages of a quarantined project list no
            file at all.
        reason: the text that installers show, one line; empty for ``active``.
        progress: receives the new status.

    Raises:
        FarmError: the reason is missing, or holds more than one line or a control character.
        UnknownWheel: the index lists no such project.
        UnsafeSite, CorruptManifest, DiskFull, StoreConflict, StoreFailed: as for publishing.
    """
    if not reason.isprintable() or bool(reason.strip()) == (status == "active"):
        wanted = "empty for active" if status == "active" else f"one line that says why it is {status}"
        raise FarmError(f"reason: should be {wanted}, got {reason!r}")
    store = as_store(site)

    def change(before: Manifest) -> Manifest:
        projects = sorted({wheel.project for wheel in before.wheels})
        if project not in projects:
            raise UnknownWheel(f"no project {project!r} on {store.name}; {nearest(project, projects)}")
        others = {name: found for name, found in before.statuses.items() if name != project}
        if status != "active":
            others[project] = ProjectStatus(status=status, reason=reason)
        return before.model_copy(update={"statuses": dict(sorted(others.items()))})

    with store.writing(create=False, report=progress.say), without_collector():
        manifest = revise(store, change)
    progress.say(f"{project}: {status}{f', {reason}' if reason else ''}")
    return manifest
