"""How far the proof of each wheel of a release goes, platform by platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from index_site.manifest import Manifest, Wheel
    from index_site.proofs import Proof

Degree = Literal["validated", "emulated", "built"]
"""A GPU ran exactly this file; an emulator its host part, and a GPU its kernels in another file; neither."""


@dataclass(frozen=True)
class PlatformRow:
    """One wheel of a release.

    Attributes:
        platform: of the matrix, such as ``linux_aarch64``.
        degree: how far its proof goes.
        status: the same in words, which begin with the degree.
    """

    platform: str
    degree: Degree
    status: str


def platform_rows(manifest: Manifest, release: Sequence[Wheel]) -> tuple[PlatformRow, ...]:
    """Return a row for each platform that a release serves."""
    return tuple(
        PlatformRow(name, degree_of(wheel), _status(wheel, name, manifest))
        for wheel in release
        for name in _platforms(wheel, manifest)
    )


def degree_of(wheel: Wheel) -> Degree:
    """Return how far the proof of a wheel goes that is on the channel which its proofs allow."""
    if wheel.is_validated:
        return "validated"
    return "emulated" if wheel.is_emulated else "built"


def kernel_proofs(manifest: Manifest, release: Iterable[Wheel]) -> tuple[Proof, ...]:
    """Return the proofs of the kernels in the wheels of a release, each once.

    An emulated wheel has those of the wheels that prove its kernels.
    """
    proofs: dict[str, Proof] = {}
    for wheel in release:
        elsewhere = wheel.kernels_proven_by(manifest.on_channel("stable")) if wheel.is_emulated else []
        proofs |= {proof.path: proof for one in (wheel, *elsewhere) for proof in one.proofs}
    return tuple(proofs.values())


def _status(wheel: Wheel, platform: str, manifest: Manifest) -> str:
    match degree_of(wheel):
        case "validated":
            return f"validated: exactly this file ran on {_gpus(wheel)}"
        case "emulated":
            run = next(run for run in wheel.emulations if run.counts)
            emulator = run.emulator.partition(" (")[0]  # without the distribution's version of it
            return (
                f"emulated: no {platform} machine with a GPU has validated this file; "
                f"{_kernels(wheel, manifest)}, and its host part passed {run.checks_passed} checks "
                f"under {emulator}"
            )
        case "built":
            return f"built only: {wheel.channel_reason or 'nothing has run it'}"


def _kernels(wheel: Wheel, manifest: Manifest) -> str:
    for other in wheel.kernels_proven_by(manifest.on_channel("stable")):
        names = ", ".join(_platforms(other, manifest)) or other.filename
        return f"its kernels are, byte for byte, those of the wheel for {names}, which ran on {_gpus(other)}"
    return "no GPU has proven its kernels"


def _platforms(wheel: Wheel, manifest: Manifest) -> tuple[str, ...]:
    """Return the platforms of the matrix that a wheel serves."""
    support = manifest.support_of(wheel)
    return tuple(
        dict.fromkeys(name for block in (support.cells if support else ()) for name in block.platform)
    )


def _gpus(wheel: Wheel) -> str:
    return ", ".join(dict.fromkeys(proof.gpu for proof in wheel.proofs if proof.counts))
