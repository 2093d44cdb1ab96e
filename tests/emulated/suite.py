"""Runs sections of the suite of one wheel's host part, and writes their outcomes as JSON.

Run as a program, `python -m tests.emulated.suite [--quick] OUTCOMES WHEEL SECTION...`: WHEEL is the folder
of an unpacked wheel, on the path of this Python before the tree. The sections `torch`, `package` and
`tracing` need torch, `runtime` and `operators` the doubles in the library path; none needs a GPU or a
compiler. `--quick` leaves out what takes longest in an emulator: tracing, and one check.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tests.emulated.forked import Outcome, run_forked
from tests.emulated.host_checks import operator_checks, runtime_checks, torch_checks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from tests.emulated.host_checks import Check

_HOST = {"runtime": runtime_checks, "operators": operator_checks, "torch": torch_checks}
_WITH_TORCH = frozenset({"torch", "package", "tracing"})
SLOW = ("tracing", "maps_are_of_their_tensors")
"""A section and a check: half of the time of all in an emulator, 100 s of processor time."""


def main(outcomes: Path, wheel: Path, sections: Sequence[str], *, quick: bool) -> None:
    """Run the sections in order, without what is slow if `quick`."""
    found: list[Outcome] = []
    for section in sections:
        if section not in SLOW or not quick:
            with tempfile.TemporaryDirectory() as scratch:
                found += _run(section, wheel, Path(scratch), SLOW if quick else ())
    document = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "torch": _torch_version() if _WITH_TORCH.intersection(sections) else "",
        "checks": [asdict(outcome) for outcome in found],
    }
    outcomes.write_text(json.dumps(document), encoding="utf-8")


def _run(section: str, wheel: Path, scratch: Path, left_out: Collection[str]) -> Iterator[Outcome]:
    if section in _HOST:
        yield from _each(section, _HOST[section](wheel / "flash_attn3" / "lib", scratch), left_out)
        return
    imported = run_forked(section, "import_takes_the_wheel", partial(_import_takes, wheel))
    yield imported
    if not imported.failure:
        checks = import_module(f"tests.emulated.{section}_checks").CHECKS  # imports the package
        yield from _each(section, ((check.__name__, check) for check in checks), left_out)


def _each(section: str, checks: Iterable[Check], left_out: Collection[str]) -> Iterator[Outcome]:
    for name, check in checks:
        if name not in left_out:
            yield run_forked(section, name, check)


def _import_takes(wheel: Path) -> None:
    import flash_attn3  # noqa: PLC0415 - the check itself

    assert Path(flash_attn3.__file__).is_relative_to(wheel), flash_attn3.__file__


def _torch_version() -> str:
    import torch  # noqa: PLC0415 - not every section needs it

    return str(torch.__version__)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.emulated.suite")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("sections", nargs="+")
    given = parser.parse_args()
    main(given.outcomes, given.wheel, given.sections, quick=given.quick)
