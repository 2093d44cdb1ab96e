"""The machine and the package under test, as reports state them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import flash_attn3
from flash_attn3 import _native
from flash_attn3.checks.speed.gpu_state import driver_release


def describe_environment(device: torch.device | None) -> dict[str, Any]:
    """Return the package, the machine and its software as plain data; GPU fields are None without a device.

    No field identifies the machine or the GPU: no host name, serial number or UUID.
    """
    properties = None if device is None else torch.cuda.get_device_properties(device)
    return {
        "package_version": flash_attn3.__version__,
        "package_folder": str(Path(flash_attn3.__file__).parent),
        "kernels": {kernel.name: kernel.toolkit for kernel in _native.kernels()},
        "gpu": None if properties is None else properties.name,
        "compute_capability": None if properties is None else f"{properties.major}.{properties.minor}",
        "multiprocessors": None if properties is None else properties.multi_processor_count,
        "gpu_memory_bytes": None if properties is None else properties.total_memory,
        "gpu_count": torch.cuda.device_count(),
        "driver": None if device is None else driver_release() or f"CUDA {_native.driver()[0]}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device is not None else None,
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()} {platform.machine()}",
    }
