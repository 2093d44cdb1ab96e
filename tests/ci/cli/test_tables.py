"""What the commands print fits a terminal of 80 columns, and says all of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from ci.check import Check
from ci.cli import tables
from ci.cli.app import cli
from kernels.build.version import RELEASE
from kernels.table import VARIANTS


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns shows."""
    shown = io.StringIO()
    monkeypatch.setattr(tables, "out", Console(file=shown, width=80, highlight=False))
    return shown


def test_variants_are_one_line_each(terminal: io.StringIO):
    assert CliRunner().invoke(cli, ["variants"]).exit_code == 0
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = {line.split()[0]: line for line in lines if line.strip()}
    for variant in VARIANTS:
        for text in (
            variant.code,
            variant.sm,
            f"{variant.tile_m} x {variant.tile_n}",
            f" {variant.threads} ",
        ):
            assert text in rows[variant.name]


def test_an_audit_shows_every_word_of_every_check(terminal: io.StringIO):
    name = f"flash_attn3-{RELEASE}-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    checks = (
        Check("gpus", ok=True, detail=", ".join(f"sm_{number} fwd portable" for number in range(80, 130))),
        Check("kernels", ok=False, detail=f"the pack lacks {'x' * 200}"),
    )
    tables.print_checks(Path(name), checks)
    first, *lines = terminal.getvalue().splitlines()
    assert first == f"audit of {name}"
    assert all(len(line) <= 80 for line in lines)
    assert "FAILED" in "".join(lines)
    text = "".join("".join(lines).split())
    assert "x" * 200 in text
    for number in range(80, 130):
        assert f"sm_{number}fwdportable" in text


def test_the_version_is_that_of_the_tree():
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"farm of flash-attn3 {RELEASE}\n")
