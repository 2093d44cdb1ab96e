"""The shell lines that mend a machine."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from flash_attn3.doctor.packages import COMPAT, PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flash_attn3.doctor.machine import Machine
    from flash_attn3.doctor.release import Release


def install_release(machine: Machine, release: Release) -> tuple[str, ...]:
    """Return the line that installs the release; none where the address of its index is unknown."""
    return _install_line(machine, release.pip, release.uv)


def install_compat(machine: Machine, release: Release) -> tuple[str, ...]:
    """Return the lines that put the modules of FlashAttention-3 of this project in place of all others.

    None where the index does not offer them.
    """
    lines = _install_line(machine, release.compat, release.compat.replace("--index-url", "--index"))
    return (*uninstall_lines(machine, [COMPAT]), *lines) if lines else ()


def install_torch(machine: Machine, release: Release, cell: Mapping[str, str]) -> tuple[str, ...]:
    """Return the lines that install a torch that the release serves, for this driver."""
    torch, cuda = release.newest_torch(cell, machine.driver.cuda)
    requirement = f"torch=={torch}.*" if torch else f"torch>={release.torch}"
    backend = f"--torch-backend {cuda or 'auto'}"
    if machine.uv:
        return (f'uv pip install --python {_python(machine)} {backend} "{requirement}"',)
    return (
        f"{_python(machine)} -m pip install uv",
        f'{_python(machine)} -m uv pip install --python {_python(machine)} {backend} "{requirement}"',
    )


def uninstall_lines(machine: Machine, names: Sequence[str]) -> tuple[str, ...]:
    """Return the line that removes distributions."""
    if machine.pip or not machine.uv:
        return (f"{_python(machine)} -m pip uninstall -y {' '.join(names)}",)
    return (f"uv pip uninstall --python {_python(machine)} {' '.join(names)}",)


def reinstall_release(machine: Machine, release: Release) -> tuple[str, ...]:
    """Return the lines that replace a damaged or renamed install."""
    lines = install_release(machine, release)
    return (*uninstall_lines(machine, [PROJECT]), *lines) if lines else ()


def _install_line(machine: Machine, pip: str, uv: str) -> tuple[str, ...]:
    if not pip:
        return ()
    if machine.pip or not machine.uv:
        return (f"{_python(machine)} -m pip {pip}",)
    return (f"uv pip install --python {_python(machine)} {uv.partition(' ')[2]}",)


def _python(machine: Machine) -> str:
    if sys.platform == "win32":
        return subprocess.list2cmdline([machine.executable])
    return shlex.quote(machine.executable)
