"""What this machine has."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flash_attn3.doctor.driver import inspect_driver
from flash_attn3.doctor.packages import (
    find_module,
    found_modules,
    installed_distributions,
    installed_torch,
)

if TYPE_CHECKING:
    from typing import Any

    from flash_attn3.doctor.driver import Driver
    from flash_attn3.doctor.packages import Distribution, Module, Torch

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_TARGET",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_OFFLINE",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Machine:
    """A machine with the software of one Python.

    Attributes:
        python: such as ``3.12``, or ``3.13t`` for the free-threaded build.
        implementation: such as ``CPython``.
        executable: the path of this Python.
        platform: such as ``linux_x86_64``, as a cell names it.
        libc: ``glibc`` or ``musl``; empty where there is neither, or it cannot be told.
        pip: whether this Python has pip.
        uv: whether a uv is on the path.
        variables: the environment variables that matter, without passwords.
    """

    python: str
    implementation: str
    executable: str
    platform: str
    libc: str
    libc_version: str
    pip: bool
    uv: bool
    torch: Torch | None
    driver: Driver
    distributions: tuple[Distribution, ...]
    modules: tuple[Module, ...]
    variables: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def inspect_machine() -> Machine:
    """Inspect the machine, this Python and its packages. Imports none of them."""
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    libc, libc_version = _libc()
    distributions = installed_distributions()
    return Machine(
        python=f"{sys.version_info[0]}.{sys.version_info[1]}{'t' if free_threaded else ''}",
        implementation=platform.python_implementation(),
        executable=sys.executable,
        platform=re.sub(r"[-.]", "_", sysconfig.get_platform()),
        libc=libc,
        libc_version=libc_version,
        pip=bool(find_module("pip")),
        uv=shutil.which("uv") is not None,
        torch=installed_torch(),
        driver=inspect_driver(),
        distributions=distributions,
        modules=found_modules(distributions),
        variables={
            name: _CREDENTIALS.sub("***@", os.environ[name]) for name in _VARIABLES if name in os.environ
        },
    )


def _libc() -> tuple[str, str]:
    """Return the C library of Linux and its version."""
    if not sys.platform.startswith("linux"):
        return "", ""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):  # as musl answers
        name, version = "", ""
    if name:
        return name, version
    return ("musl", "") if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "") else ("", "")
