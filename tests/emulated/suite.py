"""Runs sections of the suite of one wheel's host part, and writes their outcomes as JSON.

Run as a program, `python -m tests.emulated.suite OUTCOMES WHEEL SECTION...`: WHEEL is the folder of an
unpacked wheel, on the path of this Python before the tree. The sections `torch` and `package` need torch,
`runtime` and `operators` the doubles in the library path; none needs a GPU or a compiler.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.emulated.forked import Outcome, run_forked
from tests.emulated.host_checks import operator_checks, runtime_checks, torch_checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.emulated.host_checks import Check

_HOST = {"runtime": runtime_checks, "operators": operator_checks, "torch": torch_checks}
_WITH_TORCH = frozenset({"torch", "package"})


def main(outcomes: str, wheel: str, *sections: str) -> None:
    """Run the sections in order."""
    found: list[Outcome] = []
    for section in sections:
        with tempfile.TemporaryDirectory() as scratch:
            found += _run(section, Path(wheel), Path(scratch))
    document = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "torch": _torch_version() if _WITH_TORCH.intersection(sections) else "",
        "checks": [asdict(outcome) for outcome in found],
    }
    Path(outcomes).write_text(json.dumps(document), encoding="utf-8")


def _run(section: str, wheel: Path, scratch: Path) -> Iterator[Outcome]:
    if section in _HOST:
        yield from _each(section, _HOST[section](wheel / "flash_attn3" / "lib", scratch))
        return
    imported = run_forked(section, "import_takes_the_wheel", partial(_import_takes, wheel))
    yield imported
    if not imported.failure:
        from tests.emulated.package_checks import CHECKS  # noqa: PLC0415 - imports the package

        yield from _each(section, ((check.__name__, check) for check in CHECKS))


def _each(section: str, checks: Iterable[Check]) -> Iterator[Outcome]:
    for name, check in checks:
        yield run_forked(section, name, check)


def _import_takes(wheel: Path) -> None:
    import flash_attn3  # noqa: PLC0415 - the check itself

    assert Path(flash_attn3.__file__).is_relative_to(wheel), flash_attn3.__file__


def _torch_version() -> str:
    import torch  # noqa: PLC0415 - not every section needs it

    return str(torch.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
