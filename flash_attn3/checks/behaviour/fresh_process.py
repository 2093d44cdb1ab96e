"""Runs a check in a new process: for what happens once in a process, such as the first use of a kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import flash_attn3
from flash_attn3.checks.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT = 180  # seconds
_PROGRAM = """
import importlib, sys
module, function = sys.argv[1:]
failures = getattr(importlib.import_module(module), function)()
print(*failures, sep="\\n", file=sys.stderr)
sys.exit(1 if failures else 0)
"""


def run_fresh(name: str, check: Callable[[], list[str]]) -> Outcome:
    """Run a check, a function of a module, in a new process that imports this package.

    Args:
        name: of the outcome.
        check: returns a sentence for each failure; found again by its module and name.
    """
    paths = [str(Path(flash_attn3.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, check.__module__, check.__name__],
            cwd=paths[0],  # the folder that Python searches first
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        output = (done.stdout + done.stderr)[-2000:]
        failures = [] if done.returncode == 0 else [f"exit {done.returncode}: {output}"]
    except subprocess.TimeoutExpired:
        failures = [f"did not end within {_TIMEOUT} s"]
    return Outcome("fresh", name, {}, {}, tuple(failures))
