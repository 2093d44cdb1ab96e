"""What is installed, and whether it can run on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from flash_attn3 import _native
from flash_attn3._build import read_build

# A kernel's target as compilers name it, by its code.
_TARGETS = {"exact": "sm_{}a", "portable": "sm_{}", "ptx": "compute_{}"}


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees; ``refusal`` says why no kernel of this build runs on it, if none does."""

    name: str
    compute_capability: str
    refusal: str


@dataclass(frozen=True)
class Installation:
    """This package, its surroundings, and a verdict: ``reason`` is empty when attention can run here."""

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
        return {**asdict(self), "can_run": not self.reason}


def inspect_installation() -> Installation:
    """Look at the package, torch, the driver and the GPUs. Never fails; what is wrong becomes the reason."""
    reasons: list[str] = []
    build = read_build()
    library_version = _native.version()
    if library_version != build.version:
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
    if not reasons and not any(not gpu.refusal for gpu in gpus):
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
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        refusal = ""
        try:
            _native.require_device(index)
        except _native.NativeError as error:
            refusal = str(error)
        gpus.append(Gpu(properties.name, f"{properties.major}.{properties.minor}", refusal))
    return tuple(gpus)


def format_installation(found: Installation) -> str:
    """Return the installation as text for people."""
    lines = [
        f"flash_attn3 {found.version} ({found.platform})",
        f"torch {found.torch}, CUDA {found.torch_cuda or 'none'}; driver: "
        + (f"CUDA {found.driver_cuda}" if found.driver_cuda else "none"),
        "kernels:",
        *(f"  {line}" for line in _kernel_lines(found.kernels)),
        "GPUs:",
        *(
            f"  {gpu.name} (sm_{gpu.compute_capability.replace('.', '')}): {gpu.refusal or 'ok'}"
            for gpu in found.gpus
        ),
    ]
    if not found.gpus:
        lines.append("  none")
    lines.append(f"cannot run here: {found.reason}" if found.reason else "can run here")
    return "\n".join(lines)


def _kernel_lines(kernels: tuple[_native.Kernel, ...]) -> list[str]:
    """Return one line for each operation, target and head_dim."""
    groups: dict[tuple[str, int, str, int, int, str], list[_native.Kernel]] = {}
    for kernel in kernels:
        target = _TARGETS[kernel.code].format(kernel.sm)
        key = (kernel.op, kernel.sm, target, kernel.head_dim, kernel.head_dim_v, kernel.toolkit)
        groups.setdefault(key, []).append(kernel)
    lines = []
    for (op, _, target, head_dim, head_dim_v, toolkit), members in sorted(groups.items()):
        size = f"{head_dim}" if head_dim == head_dim_v else f"{head_dim}/{head_dim_v}"
        which = f" head_dim {size}" if head_dim else ""  # a kernel that combines takes any
        dtypes = ", ".join(sorted({kernel.dtype for kernel in members}))
        masks = ", ".join(sorted({kernel.mask for kernel in members}))
        lines.append(f"{op} {target}{which}: {dtypes}; {masks} (CUDA {toolkit})")
    return lines or ["none"]
