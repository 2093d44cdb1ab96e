"""Runs every stage in order on this machine, from source to an installation from a site of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ci.errors import BuildFailed, ValidationFailed, WheelConflict
from ci.files import sha256_of
from ci.lock import lock
from ci.output import last_line
from ci.platforms.venv import VirtualEnvironment
from ci.project import ROOT
from ci.proof.evidence import Policy
from ci.stages.audit import audit, require_passed
from ci.stages.build import Workshop, build
from ci.stages.coverage import context_of
from ci.stages.plan import this_platform
from ci.stages.publish import publish
from ci.stages.trial import trial_environment
from ci.stages.verify import verify
from ci.wheel.compat_wheel import make_compat_wheel
from index_site.degrees import kernel_proofs, platform_rows
from index_site.errors import OtherSchema
from index_site.gpus import gpu_rows
from index_site.projects import COMPAT_PROJECT, PROJECT
from matrix.cell import Artefact
from matrix.planner import plan

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from ci.progress import Reporter
    from index_site.manifest import Manifest
    from matrix.model import Matrix

_SEES_GPU = """
try:
    import torch
except ImportError:
    raise SystemExit("it has no torch")
if not torch.cuda.is_available():
    raise SystemExit("its torch sees no CUDA GPU")
"""


@dataclass(frozen=True)
class Settings:
    """The options of a run."""

    workshop: Workshop
    caller: Path
    """The Python that started the farm; environments are created with it."""
    gpu_python: Path | None
    """A Python with torch to validate with; None: the caller if it sees a GPU, else the trial environment."""
    torch: str
    """The requirement by which pip installs torch."""
    torch_site: Path | None
    """A site-packages folder whose torch is used instead."""
    drop_in: bool = False
    """Whether to install the compatibility wheel as well."""
    trust_unsigned: bool = False
    """Whether the report of this machine's GPU, which is not signed, may put the wheel on stable."""


def run(*, settings: Settings, matrix: Matrix, now: datetime, progress: Reporter) -> tuple[str, ...]:
    """Run every stage and return the lines of the summary: the results, and what was not checked.

    Another run in the same work folder waits: both would install into one environment.

    Raises:
        FarmError, KernelsError: a stage failed.
    """
    work = settings.workshop.work
    with lock(work / "run", progress.say) as held:
        environment = VirtualEnvironment(work / "env", locks=(held,))
        return _run_stages(settings, environment, matrix, now, progress)


def _run_stages(
    settings: Settings, environment: VirtualEnvironment, matrix: Matrix, now: datetime, progress: Reporter
) -> tuple[str, ...]:
    work = settings.workshop.work
    started = time.monotonic()
    whole = plan(matrix)
    artefact = Artefact(this_platform(matrix).name, matrix.release.toolkit)
    progress.say(
        f"plan: {artefact} serves {len(whole.served)} cells; {len(whole.excluded)} are excluded, with reasons"
    )

    wheel = build(artefact=artefact, matrix=matrix, workshop=settings.workshop, progress=progress)
    compat = make_compat_wheel(work, progress)
    audits = {path.name: audit(path) for path in (wheel, compat)}
    for path in (wheel, compat):
        require_passed(path, audits[path.name])
        progress.say(f"audit: all {len(audits[path.name])} checks of {path.name} passed")

    trial = trial_environment(
        environment,
        python=settings.caller,
        torch=settings.torch,
        torch_site=settings.torch_site,
        progress=progress,
    )
    report = _validate(wheel, settings, trial.environment.python, progress)
    context = context_of(matrix, whole, audits)
    manifest = publish_locally(
        wheels=[wheel, compat],
        reports=[] if isinstance(report, str) else [report],
        site=work / "site",
        now=now,
        progress=progress,
        context=context,
        policy=Policy.of(matrix, trust_unsigned=settings.trust_unsigned),
    )
    verify(site=work / "site", python=settings.caller, progress=progress, torch_site=trial.torch_site)

    published = {item.filename: item for item in manifest.wheels}
    listed = published[wheel.name]
    page = work / "site" / listed.channel / "index.html"
    requirements = {f"{PROJECT}=={listed.version}": "flash_attn3"}
    if settings.drop_in:
        requirements[f"{COMPAT_PROJECT}=={published[compat.name].version}"] = "flash_attn_interface"
    trial.install(requirements, page)
    unchecked = [
        f"other Pythons and torches than {trial.description}: only these were installed into and imported"
    ]
    support = manifest.support_of(listed)
    rows = gpu_rows(support.gpus, kernel_proofs(manifest, [listed])) if support else ()
    if unproven := [row.gpus for row in rows if not row.proven]:
        unchecked.append(f"kernels for GPUs without a validation report: {'; '.join(unproven)}")
    unchecked += [row.status for row in platform_rows(manifest, [listed]) if row.degree == "emulated"]
    if isinstance(report, str):
        known = "; validation/ holds a report of exactly these bytes" if listed.channel == "stable" else ""
        unchecked.insert(0, f"speed and correctness on a GPU: {report}{known}")
    seconds = time.monotonic() - started
    activate = trial.environment.folder / "bin" / "activate"
    compat_state = "installed" if settings.drop_in else "not installed; --drop-in installs it"
    return (
        "",
        f"Built, audited, published, verified and installed in {seconds:.0f} s:",
        f"  wheel      {wheel}",
        f"  channel    {listed.channel}{f', {listed.channel_reason}' if listed.channel_reason else ''}",
        f"  site       {work / 'site' / 'index.html'}",
        f"  installed  beside {trial.description}; use it with: source {activate}",
        f"  drop-in    {compat}, {compat_state}",
        "",
        "Output of python -m flash_attn3:",
        *(f"  {line}" for line in trial.self_description()),
        "",
        "Not checked on this machine:",
        *(f"  - {line}" for line in unchecked),
    )


def _validate(wheel: Path, settings: Settings, trial: Path, progress: Reporter) -> Path | str:
    """Validate with the first Python that sees a GPU; return the report, or the reason why there is none."""
    candidates = [settings.gpu_python] if settings.gpu_python else [settings.caller, trial]
    reasons: list[str] = []
    for python in candidates:
        seen = subprocess.run([python, "-c", _SEES_GPU], check=False, capture_output=True, text=True)
        if seen.returncode == 0:
            return _validate_with(python, wheel, settings.workshop.work / "reports", progress)
        reasons.append(f"{python}: {last_line(seen.stderr, 'it cannot be run')}")
    progress.say(f"validate: skipped ({'; '.join(reasons)})")
    return "; ".join(reasons)


def _validate_with(python: Path, wheel: Path, reports: Path, progress: Reporter) -> Path:
    reports.mkdir(parents=True, exist_ok=True)
    report = reports / f"{wheel.stem}-{sha256_of(wheel)[:12]}.json"
    progress.say(f"validate: with {python}")
    command: list[str | Path] = [
        python,
        ROOT / "scripts" / "farm",
        "validate",
        "--wheel",
        wheel,
        "--report",
        report,
    ]
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if status == ValidationFailed.exit_code:
        raise ValidationFailed(f"{wheel.name}: failed on the GPU of this machine; see {report}")
    if status != 0:
        raise BuildFailed(f"validate ended with status {status}; its message is above", status)
    return report


def publish_locally(*, site: Path, now: datetime, progress: Reporter, **others: Any) -> Manifest:
    """Publish to the local site; rename a site that cannot take the wheels and start a new one.

    It may hold another build of this version: a published wheel never changes, but the wheel of this tree
    does between two releases. Or its manifest may be of another schema.
    """
    add = partial(publish, site=site, now=now, progress=progress, archive=ROOT / "validation", **others)
    try:
        return add()
    except (WheelConflict, OtherSchema) as error:
        held = "another build of this version" if isinstance(error, WheelConflict) else "an older manifest"
        aside = site.with_name(f"{site.name}-until-{now:%Y%m%dT%H%M%S}")
        progress.warn(f"{site} holds {held}; that site is now {aside}")
        site.replace(aside)
    return add()
