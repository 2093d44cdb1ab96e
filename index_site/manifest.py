"""The manifest: the one file that lists what the index holds. Every page is a pure function of it."""

from __future__ import annotations

import gc
import hashlib
import json
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from packaging.version import Version
from pydantic import Field, ValidationError, model_validator

from index_site.errors import CorruptManifest, OtherSchema
from index_site.projects import COMPAT_PROJECT
from index_site.proofs import Emulation, Proof, ReportSummary  # noqa: TC001 (pydantic reads the annotations)
from index_site.record import Record, Sha256
from matrix.block import Block  # noqa: TC001 (as above)
from matrix.serving import Code  # noqa: TC001 (as above)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION: Literal[3] = 3

Status = Literal["active", "archived", "quarantined", "deprecated"]
"""The status of a project, as in PEP 792."""
Channel = Literal["stable", "candidate"]
CHANNELS: tuple[Channel, ...] = ("stable", "candidate")

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+!-]+$")]
ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
_RELEASE = r"([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?"
VersionText = Annotated[str, Field(pattern=rf"^{_RELEASE}(\+[a-z0-9]+(\.[a-z0-9]+)*)?$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Date = Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]


class Audit(Record):
    """Result of a wheel's static audit: number of passed checks, and the text of each failed one."""

    checks_passed: Annotated[int, Field(ge=0)]
    failures: tuple[str, ...]


class OperatorBuild(Record):
    """What the kernels of one operator take; an operator without head dimension has no masks either."""

    sms: tuple[str, ...]
    dtypes: tuple[str, ...]
    head_dims: tuple[int, ...]
    masks: tuple[str, ...]


class Build(Record):
    """The kernels in a wheel: their names by toolkit, and what they take by operator.

    Attributes:
        pack_sha256: of the file that holds all kernels; None if an older tree published the wheel.
    """

    content_digest: str
    pack_sha256: Sha256 | None = None
    toolkits: dict[str, tuple[str, ...]]
    operators: dict[str, OperatorBuild]


class GpuSupport(Record):
    """The GPUs of one SM, and for each operator the code that serves it there; None without a kernel."""

    sm: str
    gpus: str
    operators: dict[str, Code | None]


class Support(Record):
    """The cells that a wheel serves, as blocks with every axis listed, and what serves each of their GPUs."""

    cells: tuple[Block, ...]
    gpus: tuple[GpuSupport, ...]

    @property
    def key(self) -> str:
        """Name of this record in a manifest: a digest, so that equal records are stored once."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ExcludedCells(Record):
    """Cells that no wheel serves, and the reason. A cell may be in several; the first gives the reason."""

    cells: Block
    reason: str


class Wheel(Record):
    """One published wheel. Its bytes never change; it can be yanked, but is never removed.

    Attributes:
        channel_reason: why the wheel is not on ``stable``; empty if it is.
        yanked: the reason; None if the wheel is not yanked.
        faults: why it should not have been published; its publisher forced it. Empty if there is nothing.
        proofs: what validation reports of exactly these bytes show.
        emulations: what emulation reports of exactly these bytes show.
        support: key of a record in the manifest's ``supports``; None if the matrix does not list the wheel.
    """

    filename: FileName
    sha256: Sha256
    size: Annotated[int, Field(gt=0)]
    metadata_sha256: Sha256
    project: ProjectName
    version: VersionText
    tags: tuple[str, ...]
    requires_python: str
    requires_dist: tuple[str, ...]
    channel: Channel
    channel_reason: str
    upload_time: Timestamp
    yanked: str | None
    faults: tuple[str, ...]
    proofs: tuple[Proof, ...]
    emulations: tuple[Emulation, ...] = ()
    audit: Audit | None
    build: Build | None
    support: str | None

    @property
    def is_shown(self) -> bool:
        """Whether pages list it: a wheel whose audit failed is kept, and offered to nobody."""
        return self.audit is None or not self.audit.failures

    @property
    def is_compat(self) -> bool:
        """Whether this is a compatibility wheel."""
        return self.project == COMPAT_PROJECT

    @property
    def pin(self) -> str:
        """The requirement of exactly this project and version, as ``requires_dist`` has it."""
        return f"{self.project}=={self.version}"

    def required_among(self, wheels: Iterable[Wheel]) -> list[Wheel]:
        """Return those of ``wheels`` whose project and version this wheel requires exactly."""
        return [other for other in wheels if other.pin in self.requires_dist]

    @property
    def is_validated(self) -> bool:
        """Whether a GPU has proven exactly these bytes."""
        return any(proof.counts for proof in self.proofs)

    @property
    def is_emulated(self) -> bool:
        """Whether its host part has passed in an emulator, and no GPU has proven it."""
        return any(emulation.counts for emulation in self.emulations) and not self.is_validated

    @property
    def reports(self) -> tuple[ReportSummary, ...]:
        """What all reports of these bytes show."""
        return (*self.proofs, *self.emulations)

    def with_these_kernels_among(self, wheels: Iterable[Wheel]) -> list[Wheel]:
        """Return the other wheels of this version that have its kernel pack, byte for byte."""
        pack = self.build.pack_sha256 if self.build else None
        if pack is None:
            return []
        return [
            other
            for other in wheels
            if other.pin == self.pin
            and other.filename != self.filename
            and other.build is not None
            and other.build.pack_sha256 == pack
        ]

    def kernels_proven_by(self, wheels: Iterable[Wheel]) -> list[Wheel]:
        """Return the stable wheels among ``wheels`` with these kernels that a GPU has proven."""
        alike = self.with_these_kernels_among(wheels)
        return [other for other in alike if other.is_validated and other.channel == "stable"]

    @model_validator(mode="after")
    def _stable_means_proven(self) -> Wheel:
        needs_proof = self.channel == "stable" and not self.is_compat
        if needs_proof and not self.is_validated and not self.is_emulated:
            raise ValueError(f"{self.filename} is on stable without a report that counts")
        return self


class ProjectStatus(Record):
    """The status of a project, and the text that installers show with it; empty for none."""

    status: Status
    reason: str = ""

    @property
    def is_offered(self) -> bool:
        """Whether pages list the files of the project."""
        return self.status != "quarantined"

    @property
    def takes_files(self) -> bool:
        """Whether new files may be added to the project."""
        return self.status in {"active", "deprecated"}


ACTIVE = ProjectStatus(status="active")


class Snapshot(Record):
    """What ``stable`` listed on a date: pages below a folder of that name, which never change.

    Attributes:
        date: the name of the folder.
        pages: path -> sha256. The bytes are the site's; no later version of this tree renders them again.
    """

    date: Date
    pages: dict[str, Sha256]


class Removed(Record):
    """A wheel that the index listed once. Its name stands for no other bytes."""

    filename: FileName
    sha256: Sha256
    reason: str


class Manifest(Record):
    """Everything on the index; ``wheels`` are sorted by project, version and file name.

    Attributes:
        base_url: address at which the site is served; None if unknown.
        cadence_days: days from one build of the farm to the next; None if unknown.
        exclusions: in the order of the matrix.
        statuses: project -> its status, of those that are not active.
        snapshots: sorted by date.
        removed: sorted by file name.
        supports: what wheels serve, by :attr:`Support.key`.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    base_url: str | None = None
    cadence_days: Annotated[int, Field(gt=0)] | None = None
    exclusions: tuple[ExcludedCells, ...] = ()
    statuses: dict[str, ProjectStatus] = Field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] = ()
    removed: tuple[Removed, ...] = ()
    supports: dict[str, Support] = Field(default_factory=dict)
    wheels: tuple[Wheel, ...] = ()

    @model_validator(mode="after")
    def _wheels_are_unique(self) -> Manifest:
        names = [wheel.filename for wheel in self.wheels]
        if len(set(names)) != len(names):
            raise ValueError("a wheel is listed twice")
        if back := {wheel.filename for wheel in self.removed}.intersection(names):
            raise ValueError(f"{min(back)} is listed, and removed as well")
        return self

    @model_validator(mode="after")
    def _snapshots_have_pages_of_their_own(self) -> Manifest:
        dates = [snapshot.date for snapshot in self.snapshots]
        if dates != sorted(set(dates)):
            raise ValueError("snapshots should be sorted by date, each date once")
        for snapshot in self.snapshots:
            for path in snapshot.pages:
                if not path.startswith(f"{snapshot.date}/") or ".." in path:
                    raise ValueError(f"snapshots: {path} is no page of {snapshot.date}")
        return self

    @model_validator(mode="after")
    def _supports_are_those_of_the_wheels(self) -> Manifest:
        for key, support in self.supports.items():
            if key != support.key:
                raise ValueError(f"supports.{key} should have the key {support.key}")
        used = {wheel.support for wheel in self.wheels if wheel.support is not None}
        if used != self.supports.keys():
            odd = ", ".join(sorted(used ^ self.supports.keys()))
            raise ValueError(f"supports should hold the records that wheels name and no others; wrong: {odd}")
        return self

    @model_validator(mode="after")
    def _compat_wheels_have_what_they_require(self) -> Manifest:
        stable = self.on_channel("stable")
        compat = [wheel for wheel in stable if wheel.is_compat]
        listed = {wheel.pin for wheel in stable} if compat else set()
        for wheel in compat:
            if listed.isdisjoint(wheel.requires_dist):
                raise ValueError(f"{wheel.filename} is on stable without {', '.join(wheel.requires_dist)}")
        return self

    @model_validator(mode="after")
    def _emulated_wheels_have_proven_kernels(self) -> Manifest:
        for wheel in self._stable:
            if wheel.is_emulated and not wheel.kernels_proven_by(self._stable):
                raise ValueError(f"{wheel.filename} is on stable, and no GPU has validated its kernels")
        return self

    def on_channel(self, channel: Channel) -> tuple[Wheel, ...]:
        """Return the wheels that a channel lists.

        ``candidate`` lists every wheel that is shown, so that a promotion to ``stable`` removes none from it.
        """
        return self.shown if channel == "candidate" else self._stable

    @cached_property
    def shown(self) -> tuple[Wheel, ...]:
        """The wheels that pages list."""
        return tuple(wheel for wheel in self.wheels if wheel.is_shown)

    @cached_property
    def _stable(self) -> tuple[Wheel, ...]:
        return tuple(wheel for wheel in self.shown if wheel.channel == "stable")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Manifest:
        """As for any model. A copy has other wheels, and derives its own lists from them."""
        copy = super().model_copy(update=update, deep=deep)
        for derived in ("shown", "_stable"):
            copy.__dict__.pop(derived, None)
        return copy

    def status_of(self, project: str) -> ProjectStatus:
        """Return the status of a project: active, unless the manifest has another."""
        return self.statuses.get(project, ACTIVE)

    def support_of(self, wheel: Wheel) -> Support | None:
        """Return what a wheel serves; None if the matrix does not list it."""
        return None if wheel.support is None else self.supports[wheel.support]


def sort_wheels(wheels: Iterable[Wheel]) -> tuple[Wheel, ...]:
    """Return the wheels in the manifest's order."""
    listed = list(wheels)
    versions = parsed_versions(listed)
    return tuple(sorted(listed, key=lambda wheel: (wheel.project, versions[wheel.version], wheel.filename)))


def parsed_versions(wheels: Iterable[Wheel]) -> dict[str, Version]:
    """Return each version of the wheels, parsed."""
    return {version: _version(version) for version in {wheel.version for wheel in wheels}}


@cache
def _version(text: str) -> Version:
    return Version(text)


def named_supports(wheels: Iterable[Wheel], known: Iterable[Support]) -> dict[str, Support]:
    """Return, by key and sorted, those of the known records that the wheels name."""
    used = {wheel.support for wheel in wheels}
    by_key = {support.key: support for support in known}
    return {key: by_key[key] for key in sorted(by_key) if key in used}


def timestamp(now: datetime) -> str:
    """Return a time zone aware time as RFC 3339 in UTC, to the second."""
    return now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def without_collector() -> Iterator[None]:
    """Disable the cycle collector: it takes two thirds of the time on a growing heap without cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # What was made meanwhile goes to the oldest generation; else the next collection reads all of it.
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes: keys in the schema's order, one wheel a line for readable diffs."""
    head = manifest.model_dump_json(exclude={"wheels"}).removesuffix("}")
    wheels = ",\n".join(wheel.model_dump_json() for wheel in manifest.wheels)
    return f'{head},"wheels":[\n{wheels}\n]}}\n'.encode()


def parse_manifest(raw: bytes, *, name: str) -> Manifest:
    """Parse a manifest; ``name`` is the file that errors name.

    Raises:
        CorruptManifest: the bytes are not a manifest; the text names the first wrong field.
        OtherSchema: they are a manifest of another schema.
    """
    try:
        with without_collector():
            return Manifest.model_validate_json(raw)
    except ValidationError as error:
        _require_schema(raw, name)
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise CorruptManifest(f"{name}: {where}: {first['msg']}") from error


def _require_schema(raw: bytes, name: str) -> None:
    """Refuse a whole manifest of another schema with advice, rather than with its first unknown field."""
    try:
        document = json.loads(raw)
    except ValueError:
        return
    version = document.get("schema_version") if isinstance(document, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise OtherSchema(
            f"{name}: schema_version: should be {SCHEMA_VERSION}, got {version!r}; publish the wheels and "
            "reports of this site into a new folder"
        )


def read_manifest(site: Path) -> Manifest:
    """Read the manifest of a site.

    Raises:
        CorruptManifest: the file is missing, truncated, altered or of another schema.
    """
    path = site / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptManifest(f"{path}: cannot be read: {error.strerror}") from error
    return parse_manifest(raw, name=str(path))
