"""The errors that users paste: each with its cause on this machine, and the lines that mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flash_attn3.doctor.commands import (
    install_compat,
    install_release,
    install_torch,
    reinstall_release,
    uninstall_lines,
)
from flash_attn3.doctor.diagnosis import Problem
from flash_attn3.doctor.packages import COMPAT, PROJECT
from flash_attn3.doctor.release import OLDEST_DRIVER

if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Match

    from flash_attn3.doctor.diagnosis import Diagnosis
    from flash_attn3.doctor.machine import Machine
    from flash_attn3.doctor.release import Release


@dataclass(frozen=True)
class Case:
    """A pasted error on a machine.

    Attributes:
        found: the match of the rule's pattern.
        text: the whole pasted text.
    """

    found: Match[str]
    text: str
    machine: Machine
    release: Release
    diagnosis: Diagnosis

    def group(self, name: str) -> str:
        """Return a named part of the error; empty if it is not there."""
        return self.found.group(name) or ""

    def torch_lines(self) -> tuple[str, ...]:
        """Return the lines that install a torch that the release serves."""
        return install_torch(self.machine, self.release, self.diagnosis.cell)

    def replacement_lines(self, distribution: str) -> tuple[str, ...]:
        """Return the lines that put this project in place of a distribution of another."""
        removed = uninstall_lines(self.machine, [distribution])
        compat = install_compat(self.machine, self.release) if distribution == COMPAT else ()
        return compat or (*removed, *install_release(self.machine, self.release))


@dataclass(frozen=True)
class Rule:
    """How an error is recognised: its name for programs, and the words that it always has."""

    code: str
    pattern: str
    answer: Callable[[Case], tuple[str, tuple[str, ...]]]


def explain(text: str, machine: Machine, release: Release, diagnosis: Diagnosis) -> tuple[Problem, ...]:
    """Return what the errors in a text mean on a machine; none for a text with no known error."""
    problems = []
    for rule in RULES:
        found = re.search(rule.pattern, text, re.IGNORECASE)
        if found is not None:
            cause, lines = rule.answer(Case(found, text, machine, release, diagnosis))
            problems.append(Problem(rule.code, cause, lines))
    return tuple(problems)


def _foreign(text: str) -> str:
    """Return the distribution of another project that a path or module in an error belongs to."""
    if re.search(r"flash_attn_3|flash_attn_interface|flash-attn-3", text):
        return COMPAT
    return "flash-attn" if re.search(r"flash_attn(_2_cuda)?\b|flash-attn\b", text) else ""


def _undefined_symbol(case: Case) -> tuple[str, tuple[str, ...]]:
    file, torch = case.group("file"), case.machine.torch
    version = torch.version if torch else "none"
    if "flash_attn3/lib" in file.replace("\\", "/"):
        cause = f"{PROJECT} needs torch {case.release.torch} or newer, undamaged; torch here: {version}"
        return cause, case.torch_lines()
    other = _foreign(file)
    cause = f"{file or 'a library'} was built for another torch than the one here ({version})"
    if not other:
        return f"{cause}: install the build of it for this torch, or remove it", ()
    return f"{cause}; it is of {other}. {PROJECT} is one file for every torch", case.replacement_lines(other)


def _old_libc(case: Case) -> tuple[str, tuple[str, ...]]:
    library, version = case.group("library"), case.group("version")
    here = f"{case.machine.libc} {case.machine.libc_version}".strip() or "another C library"
    cause = f"a library was compiled on a system with {library} {version}; this one has {here}"
    file = case.group("file")
    other = _foreign(file)
    if other:
        return f"{cause}. It is {file}, of {other}", case.replacement_lines(other)
    own = "flash_attn3/lib" in file
    return f"{cause}. {f'It is {file}' if file else 'The path behind it says which'}", (
        reinstall_release(case.machine, case.release) if own else ()
    )


def _no_kernel_image(case: Case) -> tuple[str, tuple[str, ...]]:
    refusal = _problem(case, "gpu")
    if refusal:
        return refusal.cause, ()
    excluded = _problem(case, "excluded")
    if excluded:
        return excluded.cause, excluded.commands
    gpus = ", ".join(f"{gpu.name} (sm_{gpu.sm})" for gpu in case.machine.driver.gpus) or "the GPU"
    cause = f"the library that failed has no code for {gpus}"
    if re.search(r"flash_attn_3|flash_attn_interface|hopper", case.text):
        return f"{cause}; it is of another {COMPAT}", case.replacement_lines(COMPAT)
    lines = install_release(case.machine, case.release)
    return (
        f"{cause}; it is of another package or of torch. {PROJECT} has kernels for {case.release.gpus}",
        lines,
    )


def _cuda_library(case: Case) -> tuple[str, tuple[str, ...]]:
    torch = case.machine.torch
    here = f"torch here is of CUDA {torch.cuda}" if torch and torch.cuda else "no torch with CUDA is here"
    wanted = case.group("major") or case.group("windows")
    cause = (
        f"a package was built for CUDA {wanted}, and {here}. {PROJECT} uses no CUDA library but the driver's"
    )
    other = _foreign(case.text) or next(
        (found.name for found in case.machine.distributions if not found.ours), ""
    )
    return cause, case.replacement_lines(other) if other else ()


def _renamed(case: Case) -> tuple[str, tuple[str, ...]]:
    cause = "a wheel was renamed: its file name states another version than its metadata"
    return f"{cause}, and installers refuse it. Install the file under its own name", install_release(
        case.machine, case.release
    )


def _no_distribution(case: Case) -> tuple[str, tuple[str, ...]]:
    blocked = next((problem for problem in case.diagnosis.problems if problem.final), None)
    if blocked is not None:
        return f"no wheel fits: {blocked.cause}", ()
    if case.group("torch"):
        cause = (
            "the index of the command has no torch, and this Python none that is new enough: install it first"
        )
        return cause, (*case.torch_lines(), *install_release(case.machine, case.release))
    cause = (
        "a wheel for this machine is on this project's index; the command asked another index, or an old pip"
    )
    return cause, install_release(case.machine, case.release)


def _driver_old(case: Case) -> tuple[str, tuple[str, ...]]:
    driver = case.machine.driver.cuda
    here = f"; this driver supports CUDA {driver}" if driver else ""
    newer = _problem(case, "torch-newer-than-driver")
    if newer:
        return newer.cause, newer.commands
    need = f"{PROJECT} needs a driver of CUDA {OLDEST_DRIVER} or newer"
    return f"the NVIDIA driver is too old for the CUDA of a package{here}. {need}: install a newer driver", ()


def _driver_missing(case: Case) -> tuple[str, tuple[str, ...]]:
    missing = _problem(case, "driver-missing")
    if missing:
        return missing.cause, ()
    return (
        "there was no NVIDIA driver where it was raised; here is one: start that container with --gpus all",
        (),
    )


def _other_provider(case: Case) -> tuple[str, tuple[str, ...]]:
    owners = [f"{module.name} is {module.path}" for module in case.machine.modules if not module.ours]
    here = f": {'; '.join(owners)}" if owners else ""
    cause = f"another {COMPAT} is in the way, or its operators are registered twice{here}"
    return cause, case.replacement_lines(COMPAT)


def _no_interface(case: Case) -> tuple[str, tuple[str, ...]]:
    cause = f"no package here has {case.group('module')}"
    return f"{cause}; the second wheel of this project, {COMPAT}, does", install_compat(
        case.machine, case.release
    )


def _unsupported_wheel(case: Case) -> tuple[str, tuple[str, ...]]:
    wheel, machine = case.group("wheel"), case.machine
    cause = f"{wheel} is for another Python or platform than this one ({machine.python}, {machine.platform})"
    blocked = next((problem for problem in case.diagnosis.problems if problem.final), None)
    if blocked is not None:
        return f"{cause}: {blocked.cause}", ()
    return cause, install_release(machine, case.release)


def _torch_old(case: Case) -> tuple[str, tuple[str, ...]]:
    torch = case.machine.torch
    here = f"torch here: {torch.version}" if torch else "this Python has no torch"
    return f"{PROJECT} needs torch {case.release.torch} or newer; {here}", case.torch_lines()


def _torch_cpu(case: Case) -> tuple[str, tuple[str, ...]]:
    return "torch was built without CUDA: install a CUDA build of it", case.torch_lines()


def _hashes(case: Case) -> tuple[str, tuple[str, ...]]:
    del case
    cause = "the file is not the pinned one: a proxy changed it, or the pin is of another platform or release"
    return f"{cause}. Published files never change; their sha256 are on the index", ()


def _no_kernel(case: Case) -> tuple[str, tuple[str, ...]]:
    del case
    return "the call is valid, and no kernel serves it yet; the index page lists what is missing", ()


def _problem(case: Case, code: str) -> Problem | None:
    return next((problem for problem in case.diagnosis.problems if problem.code == code), None)


_QUOTES = "[`'\"\u2018\u2019]"
RULES = (
    Rule("undefined-symbol", r"(?:(?P<file>[^\s:]+\.so[^\s:]*): )?undefined symbol", _undefined_symbol),
    Rule(
        "glibc",
        rf"version {_QUOTES}(?P<library>GLIBC|GLIBCXX|CXXABI)_(?P<version>[\d.…]+){_QUOTES}? not found"
        r"(?: \(required by (?P<file>[^)]+)\))?",
        _old_libc,
    ),
    Rule(
        "no-kernel-image",
        r"no kernel image is available|has no (?:\w+ )?kernel; this build",
        _no_kernel_image,
    ),
    Rule(
        "cuda-library",
        r"lib(?:cudart|cublas|cublasLt|cufft|nvrtc|nvJitLink)\.so\.(?P<major>\d+)(?:[\d.]*): cannot open"
        r"|cudart64_(?P<windows>\d+)\d*\.dll",
        _cuda_library,
    ),
    Rule(
        "renamed-wheel",
        r"inconsistent version|metadata version \S+ does not match given version|metadata has '",
        _renamed,
    ),
    Rule(
        "no-distribution",
        r"(?:no matching distribution found for|could not find a version that satisfies the requirement) "
        r"(?:(?P<torch>torch\b)|flash[-_.]attn)|no solution found when resolving",
        _no_distribution,
    ),
    Rule(
        "driver-too-old",
        r"driver on your system is too old|driver version is insufficient"
        r"|the CUDA driver supports CUDA .* or newer is needed",
        _driver_old,
    ),
    Rule(
        "driver-missing",
        r"the CUDA driver was not found|found no NVIDIA driver|libcuda\.so(?:\.1)?: cannot open",
        _driver_missing,
    ),
    Rule(
        "other-provider",
        r"cannot import name .* from '(?:flash_attn_interface|flash_attn_3)"
        r"|TORCH_LIBRARY[^\n]*namespace flash_attn_3|flash-attn-3`? is in the way"
        r"|flash_attn_3::\w+[^\n]*(?:multiple|already|twice)",
        _other_provider,
    ),
    Rule("no-interface", r"no module named '(?P<module>flash_attn_interface|flash_attn_3)\b", _no_interface),
    Rule(
        "unsupported-wheel",
        r"(?P<wheel>\S+\.whl) is not a supported wheel on this platform",
        _unsupported_wheel,
    ),
    Rule("torch-too-old", r"flash_attn3 needs torch \S+ or newer", _torch_old),
    Rule("torch-without-cuda", r"torch not compiled with CUDA|was built without CUDA", _torch_cpu),
    Rule("hash-mismatch", r"do not match the hashes|hash mismatch for", _hashes),
    Rule(
        "no-kernel-yet",
        r"has no (?:FP8 )?kernel (?:in flash_attn3 )?yet|page_table has no backward kernel"
        r"|flash_attn3 has no kernel for|this build (?:has kernels for|has no kernel that|combines up to)",
        _no_kernel,
    ),
)
