"""What is installed, and whether it can run on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from flash_attn3 import _native
from flash_attn3._build import read_build
from flash_attn3._ops import operators

_FORWARD = "fwd"  # attention can run on a GPU that has kernels of this operator


@dataclass(frozen=True)
class Served:
    """What a GPU gets of one operator.

    Attributes:
        op: the operator, for example ``fwd``.
        code: ``exact``, ``portable`` or ``ptx``; empty where no kernel runs.
        target: what the kernels were compiled for, for example ``sm_90a``; likewise.
        refusal: why no kernel of the operator runs; empty where one does.
    """

    op: str
    code: str
    target: str
    refusal: str

    def __str__(self) -> str:
        if self.refusal:
            return f"{self.op}: {self.refusal}"
        return f"{self.op}: {self.code} {self.target}"


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees, and what it gets of each operator, forward first."""

    name: str
    compute_capability: str
    operators: tuple[Served, ...]

    @property
    def refusal(self) -> str:
        """Why attention cannot run on it; empty where it can."""
        return next(served.refusal for served in self.operators if served.op == _FORWARD)


@dataclass(frozen=True)
class Installation:
    """The package and what it found around it; ``reason`` is empty where attention can run here."""

    version: str
    library_version: str
    content_digest: str
    platform: str
    kernels: tuple[_native.Kernel, ...]
    torch: str
    torch_cuda: str | None
    driver_cuda: str | None
    gpus: tuple[Gpu, ...]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        document = asdict(self)
        for gpu, described in zip(self.gpus, document["gpus"], strict=True):
            described["refusal"] = gpu.refusal
        return {**document, "can_run": not self.reason}


def inspect_installation() -> Installation:
    """Inspect the package, torch, the driver and the GPUs. Does not raise: a failure becomes the reason."""
    reasons: list[str] = []
    build = read_build()
    library_version = _native.version()
    if library_version != build.release:
        reasons.append(f"the package is {build.version} and its library is {library_version}: reinstall it")
    try:
        kernels = _native.kernels()
    except _native.NativeError as error:
        kernels = ()
        reasons.append(str(error))
    try:
        driver_cuda, _ = _native.driver()
    except _native.NativeError as error:
        driver_cuda = None
        reasons.append(str(error))
    if torch.version.cuda is None:
        reasons.append(f"torch {torch.__version__} was built without CUDA")
    gpus = _gpus() if driver_cuda is not None and kernels else ()
    if not reasons and all(gpu.refusal for gpu in gpus):
        reasons.append(gpus[0].refusal if gpus else "torch sees no GPU")
    return Installation(
        version=build.version,
        library_version=library_version,
        content_digest=build.content_digest,
        platform=build.platform,
        kernels=kernels,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        driver_cuda=driver_cuda,
        gpus=gpus,
        reason="; ".join(reasons),
    )


def _gpus() -> tuple[Gpu, ...]:
    # Forward first, and what has no kernel yet last.
    packed = {kernel.op for kernel in _native.kernels()}
    names = {operator.kernel for operator in operators()}
    ordered = sorted(names, key=lambda op: (op != _FORWARD, op not in packed, op))
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        major, minor = properties.major, properties.minor
        served = tuple(_served(op, index, 10 * major + minor) for op in ordered)
        gpus.append(Gpu(properties.name, f"{major}.{minor}", served))
    return tuple(gpus)


def _served(op: str, device: int, sm: int) -> Served:
    kernels = [kernel for kernel in _native.kernels() if kernel.op == op]
    if not kernels:
        return Served(op, "", "", "no kernel yet")
    try:
        _native.require_device(device, op)
    except _native.NativeError as error:
        return Served(op, "", "", str(error))
    # The library prefers them in this order, and the latest target of several.
    best = min(
        (kernel for kernel in kernels if kernel.runs_on(sm)),
        key=lambda kernel: (_native.Code[kernel.code.upper()], -kernel.sm),
    )
    return Served(op, best.code, best.target, "")


def format_installation(found: Installation) -> str:
    """Return the installation as text for people."""
    lines = [
        f"flash_attn3 {found.version} ({found.platform})",
        f"torch {found.torch}, CUDA {found.torch_cuda or 'none'}; driver: "
        + (f"CUDA {found.driver_cuda}" if found.driver_cuda else "none"),
        "kernels:",
        *(f"  {line}" for line in _kernel_lines(found.kernels)),
        "GPUs:",
        *(f"  {line}" for line in map(_gpu_line, found.gpus)),
    ]
    if not found.gpus:
        lines.append("  none")
    lines.append(f"cannot run here: {found.reason}" if found.reason else "can run here")
    return "\n".join(lines)


def _gpu_line(gpu: Gpu) -> str:
    served = "; ".join(map(str, gpu.operators))
    return f"{gpu.name} (sm_{gpu.compute_capability.replace('.', '')}): {served}"


def _kernel_lines(kernels: tuple[_native.Kernel, ...]) -> list[str]:
    """Return one line for each operator, target, head_dim and toolkit."""
    groups: dict[tuple[str, int, str, int, int, str], list[_native.Kernel]] = {}
    for kernel in kernels:
        key = (kernel.op, kernel.sm, kernel.target, kernel.head_dim, kernel.head_dim_v, kernel.toolkit)
        groups.setdefault(key, []).append(kernel)
    lines = []
    for (op, _, target, head_dim, head_dim_v, toolkit), members in sorted(groups.items()):
        size = f"{head_dim}" if head_dim == head_dim_v else f"{head_dim}/{head_dim_v}"
        which = f" head_dim {size}" if head_dim else ""  # combine takes any
        dtypes = ", ".join(sorted({kernel.dtype_in for kernel in members}))
        masks = ", ".join(sorted({kernel.mask for kernel in members}))
        lines.append(f"{op} {target}{which}: {dtypes}; {masks} (CUDA {toolkit})")
    return lines or ["none"]
