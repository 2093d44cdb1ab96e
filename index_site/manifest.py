"""The manifest: the one file that says what the index holds. Every page is a pure function of it."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ci.errors import CorruptManifest
from ci.wheel.drop_in_listing import is_compat, needed_by
from matrix.serving import Kind  # noqa: TC001 (pydantic reads the annotations)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST_NAME = "manifest.json"

Channel = Literal["stable", "candidate"]
CHANNELS: tuple[Channel, ...] = ("stable", "candidate")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+!-]+$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Record(BaseModel):
    """Base of the manifest's records: immutable, strict about types, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Proof(Record):
    """Summary of one validation report; the report itself lies in the site at ``path``.

    ``races`` gives, for each shape raced, the time of cuDNN's attention divided by ours: 1.2 means 1.2
    times as fast.
    ``tflops`` gives the speed itself, for the same shapes.
    ``quick`` says that only a small selection of the cases was run, and ``failure`` is the first that failed.
    ``worst_error_ratio`` is the largest error of any case, as a fraction of what the error rule allows.
    ``sm`` is the GPU's, such as ``90``; ``kernels`` are the kinds whose every correctness case passed on it.
    """

    path: str
    sha256: Sha256
    passed: bool
    quick: bool
    failure: str
    gpu: str
    driver: str
    torch: str
    cases_passed: Annotated[int, Field(ge=0)]
    cases_total: Annotated[int, Field(ge=0)]
    worst_error_ratio: float | None
    races: dict[str, float]
    tflops: dict[str, float]
    sm: str = ""
    kernels: tuple[Kind, ...] = ()

    def proves(self, kind: Kind) -> bool:
        """Say whether a GPU passed a whole validation with kernels of this kind."""
        return self.passed and not self.quick and kind in self.kernels


class Audit(Record):
    """Result of the static audit of a wheel: how many checks it passed, and the text of those it failed."""

    checks_passed: Annotated[int, Field(ge=0)]
    failures: tuple[str, ...]


class Build(Record):
    """What is inside a wheel: kernels by the toolkit that compiled them, and the range that they cover."""

    content_digest: str
    toolkits: dict[str, tuple[str, ...]]
    sms: tuple[str, ...]
    dtypes: tuple[str, ...]
    head_dims: tuple[int, ...]
    masks: tuple[str, ...]


class SmSupport(Record):
    """The GPUs of one SM, and the kind of kernels that serves them."""

    sm: str
    gpus: str
    kernels: Kind


class Support(Record):
    """The cells that a wheel serves, axis by axis, as the matrix states them."""

    platforms: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    sms: tuple[SmSupport, ...] = ()


class Exclusion(Record):
    """Cells that are not built, and why."""

    cells: str
    reason: str


class Wheel(Record):
    """One published wheel. Its bytes never change, and it is yanked rather than removed."""

    filename: FileName
    sha256: Sha256
    size: Annotated[int, Field(gt=0)]
    metadata_sha256: Sha256
    project: str
    version: str
    tags: tuple[str, ...]
    requires_python: str
    requires_dist: tuple[str, ...]
    channel: Channel
    channel_reason: str
    upload_time: Timestamp
    yanked: str | None
    proofs: tuple[Proof, ...]
    audit: Audit | None
    build: Build | None
    support: Support | None

    @model_validator(mode="after")
    def _stable_means_proven(self) -> Wheel:
        proven = any(proof.passed and not proof.quick for proof in self.proofs)
        if self.channel == "stable" and not proven and not is_compat(self):
            raise ValueError(f"{self.filename} is on stable without a passing validation report")
        return self


class Manifest(Record):
    """Everything the index holds; ``wheels`` are sorted by project, version and file name.

    ``base_url`` is where the site will be served, or None when that is not known.
    """

    schema_version: Literal[1] = 1
    base_url: str | None = None
    exclusions: tuple[Exclusion, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @model_validator(mode="after")
    def _wheels_are_unique(self) -> Manifest:
        names = [wheel.filename for wheel in self.wheels]
        if len(set(names)) != len(names):
            raise ValueError("a wheel is listed twice")
        return self

    @model_validator(mode="after")
    def _compat_wheels_have_what_they_need(self) -> Manifest:
        stable = self.on_channel("stable")
        for wheel in stable:
            if is_compat(wheel) and not needed_by(wheel, stable):
                raise ValueError(f"{wheel.filename} is on stable without {', '.join(wheel.requires_dist)}")
        return self

    def on_channel(self, channel: Channel) -> tuple[Wheel, ...]:
        """Return the wheels that a channel lists.

        ``candidate`` lists every wheel, so that promoting one never takes it away from anybody.
        """
        return (
            self.wheels if channel == "candidate" else tuple(w for w in self.wheels if w.channel == channel)
        )


def sort_wheels(wheels: list[Wheel]) -> tuple[Wheel, ...]:
    """Return the wheels in the manifest's order."""
    versions = {wheel.version: Version(wheel.version) for wheel in wheels}
    return tuple(sorted(wheels, key=lambda wheel: (wheel.project, versions[wheel.version], wheel.filename)))


def timestamp(now: datetime) -> str:
    """Return a time zone aware time as RFC 3339 in UTC, to the second."""
    return now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the cycle collector off: on a growing heap without cycles it takes two thirds of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes: keys in the schema's order, one wheel a line so that a diff reads well."""
    head = manifest.model_dump_json(exclude={"wheels"}).removesuffix("}")
    wheels = ",\n".join(wheel.model_dump_json() for wheel in manifest.wheels)
    return f'{head},"wheels":[\n{wheels}\n]}}\n'.encode()


def parse_manifest(raw: bytes, *, name: str) -> Manifest:
    """Read a manifest from its bytes; ``name`` is what an error calls it.

    Raises:
        CorruptManifest: the bytes are no manifest of this schema; the text names the first wrong field.
    """
    try:
        with without_collector():
            return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise CorruptManifest(f"{name}: {where}: {first['msg']}") from error


def read_manifest(site: Path) -> Manifest:
    """Read the manifest of a site.

    Raises:
        CorruptManifest: the site has no manifest, or one that is truncated, altered or of another schema.
    """
    path = site / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptManifest(f"{path}: cannot be read: {error.strerror}") from error
    return parse_manifest(raw, name=str(path))
