"""What serves each GPU, and which GPU has proven it: never more than a validation report says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from index_site.manifest import Proof, SmSupport
    from matrix.serving import Kind

_WORDS: dict[Kind, str] = {
    "exact": "Kernels of their own",
    "portable": "Portable kernels",
    "ptx": "PTX, which the driver compiles at the first call",
}


@dataclass(frozen=True)
class GpuRow:
    """One line of the table of GPUs.

    Attributes:
        gpus: the products, with their SM.
        kernels: which kernels serve them.
        status: what is known of these kernels on these GPUs.
        proven: whether a GPU of this SM passed a whole validation with them.
    """

    gpus: str
    kernels: str
    status: str
    proven: bool


def gpu_rows(sms: Iterable[SmSupport], proofs: Sequence[Proof]) -> tuple[GpuRow, ...]:
    """Return the table of GPUs: what serves each, and what these validation reports say of that."""
    return tuple(_row(sm, proofs) for sm in sms)


def _row(sm: SmSupport, proofs: Sequence[Proof]) -> GpuRow:
    here = _gpus(proof for proof in proofs if proof.proves(sm.kernels) and proof.sm == sm.sm)
    elsewhere = _gpus(proof for proof in proofs if proof.proves(sm.kernels))
    if here:
        status = f"validated on {here}"
    elif elsewhere:
        status = f"built, not yet run on this GPU; the same source passed on {elsewhere}"
    else:
        status = "built, not yet run on a GPU"
    name = f"{sm.gpus} (sm_{sm.sm})" if sm.sm.isdigit() else sm.gpus
    return GpuRow(name, _WORDS[sm.kernels], status, bool(here))


def _gpus(proofs: Iterable[Proof]) -> str:
    return ", ".join(dict.fromkeys(proof.gpu for proof in proofs))
