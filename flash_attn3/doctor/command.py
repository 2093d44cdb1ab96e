"""The command line of the doctor."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from flash_attn3.doctor.diagnosis import diagnose
from flash_attn3.doctor.machine import inspect_machine
from flash_attn3.doctor.packages import PROJECT
from flash_attn3.doctor.pasted import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from flash_attn3.doctor.diagnosis import Diagnosis, Problem
    from flash_attn3.doctor.machine import Machine
    from flash_attn3.doctor.release import Release

SCHEMA_VERSION = 1
WELL, WRONG, BAD_ARGUMENTS = 0, 1, 2
_MOST_ERROR_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the doctor."""
    parser.add_argument("text", nargs="*", metavar="ERROR_TEXT", help="an error message to explain")
    parser.add_argument("--error", metavar="FILE", help="read the error from a file; - is standard input")
    parser.add_argument("--site", metavar="URL", help="address of the index, if this file does not have it")
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of text"
    )


def run(arguments: argparse.Namespace, release: Release) -> int:
    """Print what is wrong, and the lines that mend it.

    Returns:
        0 when all is well, 1 when something is wrong, 2 when an argument is bad.
    """
    try:
        text = _error_text(arguments)
        release = release.at(arguments.site) if arguments.site is not None else release
    except (OSError, ValueError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    machine = inspect_machine()
    diagnosis = diagnose(machine, release)
    errors = explain(text, machine, release, diagnosis) if text else None
    if getattr(arguments, "json", False):
        print(json.dumps(_document(machine, release, diagnosis, errors), indent=1))
    else:
        found = _machine_lines(machine) + _diagnosis_lines(release, diagnosis)
        print("\n".join(found if errors is None else _error_lines(errors)))
    return WRONG if diagnosis.problems or errors is not None else WELL


def main(release: Release, argv: Sequence[str] | None = None, *, prog: str = "doctor.py") -> int:
    """Run the doctor as a program of its own; the result is that of :func:`run`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Say what {PROJECT} lacks on this machine and the one command that installs it, "
        "or explain an error.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv), release)


def _error_text(arguments: argparse.Namespace) -> str:
    """Return the pasted error; empty if none is given.

    Raises:
        OSError: the file cannot be read.
        ValueError: the error is given twice, or is empty or too long.
    """
    if not arguments.text and arguments.error is None:
        return ""
    if arguments.text and arguments.error is not None:
        raise ValueError(f"--error: should not be given together with ERROR_TEXT, got {arguments.error!r}")
    if arguments.error is None:
        return _checked(" ".join(arguments.text), "ERROR_TEXT")
    if arguments.error == "-":
        return _checked(_decoded(sys.stdin.buffer.read(_MOST_ERROR_BYTES + 1)), "--error")
    try:
        with open(arguments.error, "rb") as file:  # noqa: PTH123 (one call, closed at once)
            return _checked(_decoded(file.read(_MOST_ERROR_BYTES + 1)), "--error")
    except OSError as error:
        raise OSError(f"--error: should be a file or -, got {arguments.error!r}: {error.strerror}") from error


def _decoded(data: bytes) -> str:
    if len(data) > _MOST_ERROR_BYTES:
        raise ValueError(f"--error: should be at most {_MOST_ERROR_BYTES} bytes; pass the end of the log")
    return data.decode("utf-8", errors="replace")


def _checked(text: str, argument: str) -> str:
    if not text.strip():
        raise ValueError(f"{argument}: should be an error message, got nothing")
    return text


def _document(
    machine: Machine, release: Release, diagnosis: Diagnosis, errors: Sequence[Problem] | None
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "project": PROJECT,
        "version": release.version,
        "base_url": release.base_url,
        "ok": not diagnosis.problems and errors is None,
        "machine": machine.as_dict(),
        "cell": diagnosis.cell,
        "problems": [_plain(problem) for problem in diagnosis.problems],
        "commands": list(diagnosis.commands),
        "errors": None if errors is None else [_plain(problem) for problem in errors],
    }


def _plain(problem: Problem) -> dict[str, Any]:
    return {"code": problem.code, "cause": problem.cause, "commands": list(problem.commands)}


def _machine_lines(machine: Machine) -> list[str]:
    libc = f", {machine.libc} {machine.libc_version}".rstrip() if machine.libc else ""
    tools = " and ".join(name for name, here in (("pip", machine.pip), ("uv", machine.uv)) if here)
    torch = machine.torch
    cuda = "" if torch is None or torch.cuda is None else f", CUDA {torch.cuda or 'none'}"
    lines = [
        f"Python   {machine.implementation} {machine.python}, {machine.executable}, {tools or 'no pip'}",
        f"system   {machine.platform}{libc}",
        f"torch    {torch.version}{cuda}" if torch else "torch    none",
        f"driver   CUDA {machine.driver.cuda}" if machine.driver.cuda else "driver   none",
    ]
    lines += [f"GPU      {gpu.name} (sm_{gpu.sm})" for gpu in machine.driver.gpus]
    lines += [
        f"package  {found.name} {found.version}, {found.folder}{'' if found.ours else ', of another project'}"
        for found in machine.distributions
    ]
    lines += [
        f"module   {module.name}, {module.path}, of {module.owner or 'no installed distribution'}"
        for module in machine.modules
    ]
    return lines + [f"variable {name}={value}" for name, value in machine.variables.items()]


def _diagnosis_lines(release: Release, diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.problems:
        return ["", f"all is well: {PROJECT} {release.version} can run here"]
    lines = ["", *(f"wrong: {problem.cause}" for problem in diagnosis.problems)]
    if any(problem.final for problem in diagnosis.problems):
        return [*lines, "", f"{PROJECT} cannot be installed here."]
    return lines + _command_lines("To mend it:", diagnosis.commands)


def _error_lines(errors: Iterable[Problem]) -> list[str]:
    lines: list[str] = []
    for problem in errors:
        lines += [f"{problem.code}: {problem.cause}", *_command_lines("To mend it:", problem.commands)]
    return lines or ["the doctor does not recognise this error; without an error it checks the machine"]


def _command_lines(title: str, commands: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in commands)] if commands else []
