"""What serves each GPU, operator by operator, and which of it validation reports prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from index_site.manifest import GpuSupport
    from index_site.proofs import Proof
    from matrix.serving import Code

_TITLES = {"fwd": "forward", "bwd": "backward"}


@dataclass(frozen=True)
class GpuRow:
    """One line of the table of GPUs.

    Attributes:
        sm: name of the SM.
        gpus: product names, with the SM.
        kernels: which kernels serve each operator.
        status: what validation reports prove of these kernels on these GPUs.
        proven: whether a full validation passed on a GPU of this SM with the kernels of every operator.
        torches: with which versions of torch, such as ``2.11.0+cu130``.
    """

    sm: str
    gpus: str
    kernels: str
    status: str
    proven: bool
    torches: tuple[str, ...]


def operator_title(op: str) -> str:
    """Return the name of an operator for readers."""
    return _TITLES.get(op, op)


def gpu_rows(gpus: Iterable[GpuSupport], proofs: Sequence[Proof]) -> tuple[GpuRow, ...]:
    """Return the table of GPUs.

    Args:
        gpus: what serves the GPUs of each SM.
        proofs: the validation reports of these kernels.
    """
    return tuple(_row(gpu, proofs) for gpu in gpus)


def _row(gpu: GpuSupport, proofs: Sequence[Proof]) -> GpuRow:
    present = {op: code for op, code in gpu.operators.items() if code is not None}
    kernels = _by_value({op: _kernels(gpu.sm, code) for op, code in gpu.operators.items()})
    statuses = {op: _status(gpu.sm, op, code, proofs) for op, code in present.items()}
    proven = bool(present) and all(_here(gpu.sm, op, code, proofs) for op, code in present.items())
    here = [proof for op, code in present.items() for proof in _here(gpu.sm, op, code, proofs)]
    torches = tuple(dict.fromkeys(proof.torch for proof in here)) if proven else ()
    same = len(set(statuses.values())) == 1
    status = next(iter(statuses.values())) if same else _by_value(statuses)
    return GpuRow(gpu.sm, gpu_title(gpu), kernels, status, proven, torches)


def gpu_title(gpu: GpuSupport) -> str:
    """Return the product names of GPUs with their SM."""
    return f"{gpu.gpus} (sm_{gpu.sm})" if gpu.sm.isdigit() else gpu.gpus


def _by_value(texts: Mapping[str, str]) -> str:
    """Join the texts of operators; those with the same text share it: ``forward, combine: no kernel``."""
    titles: dict[str, list[str]] = {}
    for op, text in texts.items():
        titles.setdefault(text, []).append(operator_title(op))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in titles.items())


def _kernels(sm: str, code: Code | None) -> str:
    match code:
        case "exact":
            return f"exact sm_{sm} kernels"
        case "portable":
            return "portable kernels"
        case "ptx":
            return "PTX for the driver to compile"
        case None:
            return "no kernel"


def _status(sm: str, op: str, code: Code, proofs: Sequence[Proof]) -> str:
    if here := _here(sm, op, code, proofs):
        torches = ", ".join(dict.fromkeys(proof.torch for proof in here))
        return f"validated on {_gpus(here)} with torch {torches}"
    if elsewhere := _gpus(proof for proof in proofs if proof.proves(op, code)):
        return f"built, not yet run on this GPU (same source passed on {elsewhere})"
    return "built, not yet run on a GPU"


def _here(sm: str, op: str, code: Code, proofs: Sequence[Proof]) -> list[Proof]:
    """Return the proofs of the kernels that were made on GPUs of this SM."""
    return [proof for proof in proofs if proof.sm == sm and proof.proves(op, code)]


def _gpus(proofs: Iterable[Proof]) -> str:
    return ", ".join(dict.fromkeys(proof.gpu for proof in proofs))
