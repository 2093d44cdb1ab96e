"""What keeps a release from running on a machine, and the lines that install it there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flash_attn3.doctor.commands import install_release, install_torch, uninstall_lines
from flash_attn3.doctor.packages import PROJECT
from flash_attn3.doctor.release import OLDEST_DRIVER, cuda_version, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flash_attn3.doctor.machine import Machine
    from flash_attn3.doctor.release import Release

_TAG = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        code: its name for programs.
        cause: one sentence.
        commands: the lines that mend it; empty if no command does.
        final: whether the release cannot be installed here at all.
    """

    code: str
    cause: str
    commands: tuple[str, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """The problems of a machine, and the lines that install the release there: none if it cannot be.

    Attributes:
        cell: the machine by the axes of the matrix, of which some may be unknown.
    """

    cell: dict[str, str]
    problems: tuple[Problem, ...]
    commands: tuple[str, ...]


def diagnose(machine: Machine, release: Release) -> Diagnosis:
    """Compare a machine with what a release needs."""
    cell = _cell(machine, release)
    problems = (
        *_system_problems(machine, release, cell),
        *_driver_problems(machine),
        *_gpu_problems(machine, release, cell),
    )
    if any(problem.final for problem in problems):
        return Diagnosis(cell, problems, ())
    problems += (*_torch_problems(machine, release, cell), *_package_problems(machine, release))
    lines = (line for problem in problems for line in problem.commands)
    return Diagnosis(cell, problems, tuple(dict.fromkeys(lines)))


def _cell(machine: Machine, release: Release) -> dict[str, str]:
    cell = {"platform": machine.platform, "python": machine.python}
    names = [release.sm_name(gpu.sm) for gpu in machine.driver.gpus]
    if any(names):
        cell["sm"] = next(name for name in names if name)
    if machine.torch is not None:
        cell["torch"] = ".".join(map(str, numbers(machine.torch.version)[:2]))
        if machine.torch.cuda:
            cell["cuda"] = "cu" + "".join(map(str, numbers(machine.torch.cuda)[:2]))
    return cell


def _system_problems(machine: Machine, release: Release, cell: dict[str, str]) -> Iterator[Problem]:
    if not release.version:
        yield Problem("no-release", "this index offers no wheel at present", final=True)
        return
    if numbers(machine.python) < numbers(release.python):
        cause = f"this is Python {machine.python}; {PROJECT} needs {release.python} or newer"
        yield Problem("python-too-old", f"{cause}: create an environment with a newer Python", final=True)
    libcs = dict(map(_platform_and_libc, release.tags))
    if machine.platform not in libcs:
        known = ", ".join(sorted(name for name in libcs if name))
        reason = release.exclusion({"platform": machine.platform})
        cause = f"there is no wheel for {machine.platform}, only for {known}"
        yield Problem("platform", f"{cause}: {reason}" if reason else cause, final=True)
    elif machine.libc == "musl":
        yield Problem("libc", "this system has musl; the wheel and torch need glibc", final=True)
    elif machine.libc_version and numbers(machine.libc_version) < libcs[machine.platform]:
        needed = ".".join(map(str, libcs[machine.platform]))
        cause = f"this system has glibc {machine.libc_version}; the wheel needs {needed} or newer"
        yield Problem("libc", cause, final=True)
    else:
        reason = release.exclusion({axis: cell[axis] for axis in ("platform", "python")})
        if reason:
            yield Problem("excluded", f"Python {machine.python} is not served: {reason}", final=True)


def _platform_and_libc(tag: str) -> tuple[str, tuple[int, ...]]:
    """``manylinux_2_17_x86_64`` -> (``linux_x86_64``, (2, 17)); nothing for the older name of a tag."""
    match = _TAG.fullmatch(tag)
    if match is not None:
        return f"linux_{match.group(3)}", (int(match.group(1)), int(match.group(2)))
    return ("", ()) if tag.startswith("manylinux") else (tag, ())


def _driver_problems(machine: Machine) -> Iterator[Problem]:
    driver = machine.driver
    if not driver.cuda:
        advice = "install the NVIDIA driver, or start the container with access to the GPU (--gpus all)"
        yield Problem("driver-missing", f"there is no NVIDIA driver ({driver.error}): {advice}")
    elif numbers(driver.cuda) < numbers(OLDEST_DRIVER):
        cause = f"the driver supports CUDA {driver.cuda}; {OLDEST_DRIVER} or newer is needed"
        yield Problem("driver-too-old", f"{cause}: install a newer NVIDIA driver")
    elif driver.error:
        yield Problem("driver-failed", f"the driver cannot be used: {driver.error}{_hidden(machine)}")
    elif not driver.gpus:
        yield Problem("no-gpu", f"the driver shows no GPU{_hidden(machine)}")


def _hidden(machine: Machine) -> str:
    if "CUDA_VISIBLE_DEVICES" not in machine.variables:
        return ""
    return f"; CUDA_VISIBLE_DEVICES is {machine.variables['CUDA_VISIBLE_DEVICES']!r}"


def _gpu_problems(machine: Machine, release: Release, cell: dict[str, str]) -> Iterator[Problem]:
    """Yield a problem if there are GPUs and none of them is served."""
    if machine.driver.gpus and release.version and "sm" not in cell:
        names = ", ".join(dict.fromkeys(f"{gpu.name} (sm_{gpu.sm})" for gpu in machine.driver.gpus))
        yield Problem("gpu", f"no kernel runs on {names}; there are kernels for {release.gpus}", final=True)


def _torch_problems(machine: Machine, release: Release, cell: dict[str, str]) -> Iterator[Problem]:
    lines = install_torch(machine, release, cell)
    torch, driver = machine.torch, machine.driver
    if torch is None:
        cause = f"this Python has no torch, and {PROJECT} needs {release.torch} or newer"
        yield Problem("torch-missing", cause, lines)
    elif numbers(torch.version)[:2] < numbers(release.torch)[:2]:
        cause = f"torch {torch.version} is too old; {PROJECT} needs {release.torch} or newer"
        yield Problem("torch-too-old", cause, lines)
    elif torch.cuda == "":
        yield Problem("torch-without-cuda", f"torch {torch.version} was built without CUDA", lines)
    elif torch.cuda and driver.cuda and numbers(driver.cuda)[:1] < numbers(torch.cuda)[:1]:
        cause = f"torch {torch.version} needs a driver for CUDA {numbers(torch.cuda)[0]}.0 or newer"
        yield Problem("torch-newer-than-driver", f"{cause}; this one supports CUDA {driver.cuda}", lines)
    elif release.exclusion(cell):
        cuda = f" of CUDA {cuda_version(cell['cuda'])}" if "cuda" in cell else ""
        cause = f"torch {torch.version}{cuda} is not served here: {release.exclusion(cell)}"
        yield Problem("excluded", cause, lines)


def _package_problems(machine: Machine, release: Release) -> Iterator[Problem]:
    installed = next((found for found in machine.distributions if found.name == PROJECT), None)
    if installed is None:
        yield Problem("not-installed", f"{PROJECT} is not installed", install_release(machine, release))
    elif _release_of(installed.version) < _release_of(release.version):
        cause = f"{PROJECT} {installed.version} is installed; {release.version} is offered"
        lines = tuple(f"{line} --upgrade" for line in install_release(machine, release))
        yield Problem("outdated", cause, lines)
    for module in machine.modules:
        compat = next(
            (found for found in machine.distributions if found.ours and found.name != PROJECT), None
        )
        if compat is not None and not module.ours:
            owner = module.owner or "no installed distribution"
            cause = f"{module.name} is {module.path}, of {owner}, although {compat.name} is installed"
            lines = uninstall_lines(machine, [module.owner]) if module.owner else ()
            remedy = "" if lines else ": remove that file, or the folder from PYTHONPATH"
            yield Problem("module-in-the-way", cause + remedy, lines)


def _release_of(version: str) -> tuple[int, ...]:
    """Return the release number alone: an installed pre-release of the offered version is not older."""
    return numbers(re.split(r"[a-z+]", version)[0])
