"""Clock, power and temperature of a GPU, from the driver's management library (NVML)."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch

_CLOCK_SM = 1
_TEMPERATURE_GPU = 0


@dataclass(frozen=True)
class GpuState:
    """One reading; None where the machine does not provide it."""

    sm_clock_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None


def read_gpu_state(device: torch.device) -> GpuState:
    """Read the state of a CUDA device. Changes nothing, and never fails."""
    library, handle = _handle(device.index or 0)
    if library is None:
        return GpuState(None, None, None)
    clock = _read(library.nvmlDeviceGetClockInfo, handle, _CLOCK_SM)
    power = _read(library.nvmlDeviceGetPowerUsage, handle)
    temperature = _read(library.nvmlDeviceGetTemperature, handle, _TEMPERATURE_GPU)
    return GpuState(clock, None if power is None else power / 1000, temperature)


def driver_release() -> str | None:
    """Return the release of the driver, for example "580.159.03"; None if NVML does not provide it."""
    library, _ = _handle(0)
    text = ctypes.create_string_buffer(96)
    if library is None or library.nvmlSystemGetDriverVersion(text, 96) != 0:
        return None
    return text.value.decode()


@functools.cache
def _handle(index: int) -> tuple[ctypes.CDLL | None, ctypes.c_void_p]:
    handle = ctypes.c_void_p()
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        properties: Any = torch.cuda.get_device_properties(index)
        # CUDA_VISIBLE_DEVICES changes the ordinals of CUDA, not those of NVML; both have the same PCI bus.
        bus = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
        found = library.nvmlInit_v2() == 0 and (
            library.nvmlDeviceGetHandleByPciBusId_v2(bus.encode(), ctypes.byref(handle)) == 0
        )
    except (OSError, AttributeError, RuntimeError, AssertionError):
        return None, handle
    return (library if found else None), handle


def _read(function: ctypes._NamedFuncPointer, handle: ctypes.c_void_p, *arguments: int) -> int | None:
    value = ctypes.c_uint()
    return value.value if function(handle, *arguments, ctypes.byref(value)) == 0 else None
