"""A wheel's record in the manifest, and the channel that its proofs allow."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ci.errors import CorruptWheel, ReportMismatch
from ci.proof.coverage import CompiledKernel
from ci.proof.evidence import EmulatedRun, Validation
from index_site.manifest import Audit, Build, Channel, ExcludedCells, OperatorBuild, Support, Wheel
from index_site.proofs import Emulation, Proof
from kernels.build.version import is_trial
from matrix.serving import target_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ci.check import Check
    from ci.proof.evidence import Evidence, Policy
    from ci.wheel.read import WheelFile
    from index_site.proofs import ReportSummary

_Summary = TypeVar("_Summary", Proof, Emulation)
_TRIAL = "it is a trial wheel: it holds a selection of the kernels"
HELD_BACK = "it passed, and is held back by its publisher"
_NO_REPORT = "no GPU has validated it: there is no report for exactly these bytes"


@dataclass(frozen=True)
class Context:
    """Facts for the manifest that are not in the wheels themselves.

    Attributes:
        audits: the checks of each audited wheel, by file name.
        support: what wheels serve, by platform tag (``manylinux_2_17_x86_64``).
        exclusions: the cells that no wheel serves; None keeps those in the manifest.
        base_url: address of the site; None keeps the one in the manifest, "" removes it.
        cadence_days: days from one build to the next; None keeps those in the manifest.
    """

    audits: Mapping[str, Sequence[Check]] = field(default_factory=dict)
    support: Mapping[str, Support] = field(default_factory=dict)
    exclusions: Sequence[ExcludedCells] | None = None
    base_url: str | None = None
    cadence_days: int | None = None


def describe(
    facts: WheelFile,
    build: Build | None,
    context: Context,
    *,
    old: Wheel | None,
    now: str,
    faults: tuple[str, ...] = (),
) -> Wheel:
    """Return the record of a wheel.

    Args:
        facts: what the wheel itself contains.
        build: summary of its ``build.json``.
        context: what it does not contain.
        old: its record in the manifest, whose channel, proofs and upload time it keeps; None if it is new.
        now: upload time of a new wheel.
        faults: why it should not be published, if it is forced.
    """
    checks = context.audits.get(facts.filename)
    audit = None if checks is None else _audit(checks)
    platforms = (tag.rsplit("-", 1)[1] for tag in facts.tags)  # two where one has an older name, too
    support = next((context.support[name] for name in platforms if name in context.support), None)
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
        faults=faults or (old.faults if old else ()),
        proofs=old.proofs if old else (),
        emulations=old.emulations if old else (),
        audit=audit or (old.audit if old else None),
        build=build,
        support=support.key if support else (old.support if old else None),
    )


def with_evidence(wheel: Wheel, ours: Sequence[Evidence], facts: WheelFile, policy: Policy) -> Wheel:
    """Return the wheel with what reports of its bytes show, each once, sorted by path.

    What somebody vouched for stays when the same report is given again without a voucher.

    Args:
        wheel: its record.
        ours: the reports; of equal ones the last counts.
        facts: what the wheel itself contains.
        policy: what a report needs to count.

    Raises:
        CorruptWheel: there are reports, and its ``build.json`` lacks something.
    """
    kernels = _compiled_kernels(facts) if ours else ()
    validations = (found for found in ours if isinstance(found, Validation))
    runs = (found for found in ours if isinstance(found, EmulatedRun))
    proofs = _merged(wheel.proofs, [found.proof(kernels, policy.min_cases) for found in validations])
    emulations = _merged(wheel.emulations, [found.emulation(wheel.tags, policy) for found in runs])
    return wheel.model_copy(update={"proofs": proofs, "emulations": emulations})


def _merged(known: Iterable[_Summary], given: Iterable[_Summary]) -> tuple[_Summary, ...]:
    merged = {summary.path: summary for summary in known}
    for summary in given:
        if summary.voucher or summary.path not in merged:
            merged[summary.path] = summary
    return tuple(merged[path] for path in sorted(merged))


def _compiled_kernels(facts: WheelFile) -> tuple[CompiledKernel, ...]:
    """Return the kernels that a wheel's ``build.json`` lists; none for a wheel without kernels.

    Raises:
        CorruptWheel: the file lacks something.
    """
    try:
        return tuple(
            CompiledKernel(kernel["name"], kernel["op"], *target_of(kernel["sm"], kernel["code"]))
            for kernel in (facts.build or {"kernels": ()})["kernels"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_build(facts, error) from error


def _not_a_build(facts: WheelFile, error: Exception) -> CorruptWheel:
    return CorruptWheel(f"{facts.filename}: build.json is not what a build writes: {error!r}")


def channelled(wheel: Wheel, wanted: Channel | None, others: Iterable[Wheel] = ()) -> Wheel:
    """Return the wheel on the channel that its proofs allow; a stable wheel that fails later is yanked.

    Args:
        wheel: its record, with all proofs.
        wanted: the channel that the publisher demands; None for the best that the proofs allow.
        others: the wheels of the index, on their channels; those with its kernels matter to an emulated one.

    Raises:
        ReportMismatch: ``wanted`` is ``stable``, and the proofs do not allow it.
    """
    kin = wheel.with_these_kernels_among(others) if wheel.is_emulated else []
    failure = _failure(wheel, kin)
    if wheel.channel == "stable":
        return wheel.model_copy(update={"yanked": failure}) if failure and wheel.yanked is None else wheel
    if wheel.audit and wheel.audit.failures:
        reason = f"its audit failed: {wheel.audit.failures[0]}"
    elif wheel.faults:
        reason = f"its publisher forced it: {wheel.faults[0]}"
    elif failure:
        reason = failure
    elif is_trial(wheel.version):
        reason = _TRIAL
    elif lack := _lack(wheel, kin):
        reason = lack
    elif wanted == "candidate":
        reason = HELD_BACK
    else:
        reason = ""
    if reason and wanted == "stable":
        raise ReportMismatch(f"{wheel.filename}: cannot go to stable: {reason}")
    return wheel.model_copy(update={"channel": "candidate" if reason else "stable", "channel_reason": reason})


def _lack(wheel: Wheel, kin: Sequence[Wheel]) -> str:
    """Return what a wheel lacks for ``stable`` whose reports all passed; empty if it lacks nothing."""
    if wheel.is_validated:
        return ""
    if wheel.is_emulated:
        return _lack_of_kernels(wheel, kin)
    if wheel.proofs:
        return _lack_of_reports(wheel.proofs, "validation", "it passed")
    if wheel.emulations:
        return _lack_of_reports(wheel.emulations, "emulation", "it passed under emulation")
    return _NO_REPORT


def _lack_of_reports(reports: Sequence[ReportSummary], noun: str, passed: str) -> str:
    """Return why none of these passing reports counts: the reason of the one that lacks least."""
    whole = [report for report in reports if not report.quick]
    if not whole:
        return f"it passed a quick {noun} only"
    if all(report.gap for report in whole):
        return f"its {noun} does not cover it: {whole[0].gap}"
    return f"{passed}, but no key of matrix.toml has signed the {noun} report"


def _lack_of_kernels(wheel: Wheel, kin: Sequence[Wheel]) -> str:
    """Return why the kernels of an emulated wheel are not proven; empty if they are.

    Args:
        wheel: its record.
        kin: the wheels of its version with the same kernel pack.
    """
    proven = wheel.kernels_proven_by(kin)
    if any(other.yanked is None for other in proven):
        return ""
    begin = "its host part passed under emulation, but"
    if proven:
        return f"{begin} {proven[0].filename}, which has its kernels, is yanked: {proven[0].yanked}"
    if kin:
        return f"{begin} no GPU has proven its kernels, those of {kin[0].filename}, which is not stable"
    pack = wheel.build.pack_sha256 if wheel.build else None
    held = f"no other wheel of {wheel.version} has its kernel pack, sha256 {pack[:12]}…" if pack else ""
    return f"{begin} no GPU has proven its kernels: {held or 'it has no kernel pack'}"


def summarise_build(facts: WheelFile) -> Build | None:
    """Summarise a wheel's ``build.json``; None for a wheel without kernels.

    Raises:
        CorruptWheel: the file lacks something, or is of another version.
    """
    if facts.build is None:
        return None
    try:
        if facts.build["version"] != facts.version:
            raise CorruptWheel(f"{facts.filename}: build.json is of version {facts.build['version']!r}")
        kernels: dict[str, list[Mapping[str, Any]]] = {}
        for kernel in facts.build["kernels"]:
            kernels.setdefault(kernel["op"], []).append(kernel)
        toolkits: dict[str, list[str]] = {}
        for name, toolkit in sorted(facts.build["toolkits"].items()):
            toolkits.setdefault(toolkit, []).append(sys.intern(name))  # one for all wheels that have it
        return Build(
            content_digest=facts.build["content_digest"],
            pack_sha256=facts.pack_sha256,
            toolkits={toolkit: tuple(toolkits[toolkit]) for toolkit in sorted(toolkits)},
            operators={op: _operator_build(of_op) for op, of_op in kernels.items()},
        )
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        raise _not_a_build(facts, error) from error


def _operator_build(kernels: Sequence[Mapping[str, Any]]) -> OperatorBuild:
    """Summarise the kernels of one operator; head_dim 0 stands for an operator without head dimension."""
    head_dims = tuple(sorted({kernel["head_dim"] for kernel in kernels} - {0}))
    return OperatorBuild(
        sms=tuple(sorted({kernel["sm"] for kernel in kernels}, key=_number)),
        dtypes=tuple(sorted({kernel["dtype_in"] for kernel in kernels})),
        head_dims=head_dims,
        masks=tuple(
            sorted({mask for kernel in kernels for mask in _masks(kernel["mask"])} if head_dims else ())
        ),
    )


def _number(sm: str) -> tuple[int, str]:
    """``90a`` -> (90, ``90a``), after (80, ``80``)."""
    return int(sm.rstrip("af")), sm


def _masks(mask: str) -> tuple[str, ...]:
    return ("full", "causal", "local") if mask == "any" else (mask,)


def _audit(checks: Sequence[Check]) -> Audit:
    failures = tuple(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    return Audit(checks_passed=len(checks) - len(failures), failures=failures)


def _failure(wheel: Wheel, kin: Sequence[Wheel]) -> str:
    """Return the first failure of a wheel, or of those that have its kernels; empty if there is none.

    One line, as the reason of a yank is.
    """
    failures = [
        *(f"it failed validation {_of_validation(proof)}" for proof in wheel.proofs if not proof.passed),
        *(f"it failed {_of_emulation(run)}" for run in wheel.emulations if not run.passed),
        *(
            f"its kernels failed validation, in {other.filename}, {_of_validation(proof)}"
            for other in kin
            for proof in other.proofs
            if not proof.passed
        ),
    ]
    return " ".join(failures[0].split()) if failures else ""


def _of_validation(proof: Proof) -> str:
    where = f"{proof.gpu}, driver {proof.driver}, torch {proof.torch}"
    return f"on {where}: {proof.failure or 'no case was run'}"


def _of_emulation(run: Emulation) -> str:
    return f"under emulation by {run.emulator}, torch {run.torch}: {run.failure or 'no check was run'}"
