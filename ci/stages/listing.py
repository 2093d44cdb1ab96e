"""How a wheel is listed: its record in the manifest, and the channel that its evidence allows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ci.errors import CorruptWheel, ReportMismatch
from index_site.manifest import Audit, Build, Channel, Exclusion, Proof, Support, Wheel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ci.check import Check
    from ci.proof.evidence import Evidence
    from ci.wheel.read import WheelFile

_NO_REPORT = "no GPU has validated it: there is no report for exactly these bytes"


@dataclass(frozen=True)
class Context:
    """What publish says of the wheels that no wheel says of itself.

    Attributes:
        audits: checks of a wheel's audit, by file name.
        support: the cells that a wheel serves, by its platform tag (``manylinux_2_17_x86_64``).
        exclusions: the cells that are not built; None keeps what the site says.
        base_url: where the site will be served; None keeps what the site says, "" forgets it.
    """

    audits: Mapping[str, Sequence[Check]] = field(default_factory=dict)
    support: Mapping[str, Support] = field(default_factory=dict)
    exclusions: Sequence[Exclusion] | None = None
    base_url: str | None = None


def describe(facts: WheelFile, told: Context, old: Wheel | None, now: str) -> Wheel:
    """Describe a checked wheel, keeping what was decided when it was published before."""
    checks = told.audits.get(facts.filename)
    audit = None if checks is None else _audit(checks)
    support = told.support.get(facts.tags[0].rsplit("-", 1)[1])
    return Wheel(
        filename=facts.filename,
        sha256=facts.sha256,
        size=facts.size,
        metadata_sha256=hashlib.sha256(facts.metadata).hexdigest(),
        project=facts.project,
        version=facts.version,
        tags=facts.tags,
        requires_python=facts.requires_python,
        requires_dist=facts.requires_dist,
        channel=old.channel if old else "candidate",
        channel_reason=old.channel_reason if old else _NO_REPORT,
        upload_time=old.upload_time if old else now,
        yanked=old.yanked if old else None,
        proofs=old.proofs if old else (),
        audit=audit or (old.audit if old else None),
        build=_build(facts),
        support=support or (old.support if old else None),
    )


def with_evidence(wheel: Wheel, evidence: Iterable[Evidence]) -> Wheel:
    """Add the proofs of exactly this wheel's bytes, each once, in an order that depends on nothing else."""
    ours = [found.proof for found in evidence if found.wheel_sha256 == wheel.sha256]
    if not ours:
        return wheel
    proofs = {proof.path: proof for proof in (*wheel.proofs, *ours)}
    return wheel.model_copy(update={"proofs": tuple(proofs[path] for path in sorted(proofs))})


def judge(wheel: Wheel, wanted: Channel | None) -> Wheel:
    """Put a wheel on the channel that its proofs allow; it never leaves ``stable`` but is yanked there.

    Raises:
        ReportMismatch: ``wanted`` is ``stable``, and the proofs do not allow it.
    """
    failed = [proof for proof in wheel.proofs if not proof.passed]
    verdict = _failure(failed[0]) if failed else ""
    if wheel.channel == "stable":
        return wheel.model_copy(update={"yanked": verdict}) if failed and wheel.yanked is None else wheel
    if wheel.audit and wheel.audit.failures:
        reason = f"its audit failed: {wheel.audit.failures[0]}"
    elif failed:
        reason = verdict
    elif not wheel.proofs:
        reason = _NO_REPORT
    elif all(proof.quick for proof in wheel.proofs):
        reason = "it passed a quick validation only"
    elif wanted == "candidate":
        reason = "it passed, and is held back by its publisher"
    else:
        reason = ""
    if reason and wanted == "stable":
        raise ReportMismatch(f"{wheel.filename}: cannot go to stable: {reason}")
    return wheel.model_copy(update={"channel": "candidate" if reason else "stable", "channel_reason": reason})


def _build(facts: WheelFile) -> Build | None:
    """Summarise a wheel's ``build.json``; None for a wheel without kernels.

    Raises:
        CorruptWheel: the file lacks something, or contradicts the wheel's version.
    """
    if facts.build is None:
        return None
    try:
        if facts.build["version"] != facts.version:
            raise CorruptWheel(f"{facts.filename}: build.json is of version {facts.build['version']!r}")
        rows = [row for row in facts.build["kernels"] if row["op"] == "fwd"]
        toolkits: dict[str, list[str]] = {}
        for kernel, toolkit in sorted(facts.build["toolkits"].items()):
            toolkits.setdefault(toolkit, []).append(kernel)
        return Build(
            content_digest=facts.build["content_digest"],
            toolkits={toolkit: tuple(toolkits[toolkit]) for toolkit in sorted(toolkits)},
            sms=tuple(sorted({row["sm"] for row in rows}, key=_number)),
            dtypes=tuple(sorted({row["dtype_in"] for row in rows})),
            head_dims=tuple(sorted({row["head_dim"] for row in rows})),
            masks=tuple(sorted({mask for row in rows for mask in _masks(row["mask"])})),
        )
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        raise CorruptWheel(f"{facts.filename}: build.json is not what a build writes: {error!r}") from error


def _number(sm: str) -> tuple[int, str]:
    """``90a`` -> (90, ``90a``), after (80, ``80``)."""
    return int(sm.rstrip("af")), sm


def _masks(mask: str) -> tuple[str, ...]:
    return ("full", "causal", "local") if mask == "any" else (mask,)


def _audit(checks: Sequence[Check]) -> Audit:
    failures = tuple(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    return Audit(checks_passed=len(checks) - len(failures), failures=failures)


def _failure(proof: Proof) -> str:
    where = f"{proof.gpu}, driver {proof.driver}, torch {proof.torch}"
    return f"it failed validation on {where}: {proof.failure or 'no case was run'}"
