from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kernels.build import compile as kernels_compile
from kernels.build.compile import (
    DEVICE_DIR,
    compile_variant,
    inputs_digest,
    main,
    source_files,
)
from kernels.build.toolkit import Toolkit, find_toolkit
from kernels.errors import CompileError, UnknownVariantError
from kernels.table import select

if TYPE_CHECKING:
    from pathlib import Path

(PORTABLE,) = select(["fwd_portable_sm86_bf16_d64"])
(COMBINE,) = select(["combine_sm80"])
(PTX,) = select(["combine_ptx80"])


@pytest.fixture(scope="module")
def compiler(toolkit: Path) -> Toolkit:
    return find_toolkit(toolkit)


def test_a_variant_becomes_machine_code_with_its_report(compiler: Toolkit):
    made = compile_variant(PORTABLE, compiler)
    assert made.image[:4] == b"\x7fELF"
    assert PORTABLE.name.encode() in made.image
    report = made.report
    assert (report.variant, report.toolkit, report.assembled) == (PORTABLE.name, "12.8", True)
    assert (report.spill_store_bytes, report.spill_load_bytes, report.stack_bytes) == (0, 0, 0)
    assert report.dynamic_smem_bytes == PORTABLE.smem_bytes
    assert report.image_bytes == len(made.image)
    # The registers of all blocks that one multiprocessor should hold.
    assert report.registers
    assert report.registers * PORTABLE.threads * PORTABLE.blocks_per_sm <= 65_536


def test_the_same_variant_gives_the_same_bytes(compiler: Toolkit):
    assert compile_variant(COMBINE, compiler) == compile_variant(COMBINE, compiler)


def test_ptx_ends_with_a_zero_byte_and_has_no_resources(compiler: Toolkit):
    made = compile_variant(PTX, compiler)
    assert made.image.endswith(b"\0")
    assert made.image.count(b"\0") == 1
    assert b".target sm_80" in made.image
    assert f".entry {PTX.name}".encode() in made.image
    report = made.report
    assert (report.assembled, report.registers, report.spill_store_bytes, report.stack_bytes) == (
        False,
        None,
        None,
        None,
    )


def test_a_source_that_is_refused_says_why(compiler: Toolkit):
    macros = tuple((name, "3" if name == "FA3_TILE_M" else value) for name, value in COMBINE.macros)
    with pytest.raises(
        CompileError, match=r"variant combine_sm80: CUDA 12\.8 refused it:(.|\n)*one warp a row"
    ):
        compile_variant(replace(COMBINE, macros=macros), compiler)


def test_sources_are_the_file_and_what_it_includes():
    files = source_files(COMBINE)
    assert list(files) == sorted(files)
    names = [path.name for path in files]
    assert {"combine.cu", "combine.h", "operand.h"} <= set(names)
    assert "fwd_portable.cu" not in names


def test_the_digest_changes_with_what_decides_the_image(
    compiler: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = inputs_digest(COMBINE, compiler)
    assert inputs_digest(COMBINE, compiler) == first
    others = [
        inputs_digest(replace(COMBINE, macros=(*COMBINE.macros, ("X", "1"))), compiler),
        inputs_digest(replace(COMBINE, sm="86"), compiler),
        inputs_digest(replace(COMBINE, allow=(("spill", "why"),)), compiler),
        inputs_digest(COMBINE, replace(compiler, digest="another")),
    ]
    for path in source_files(COMBINE):
        copy = tmp_path / path.relative_to(DEVICE_DIR)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(kernels_compile, "DEVICE_DIR", tmp_path)
    assert inputs_digest(COMBINE, compiler) == first
    with (tmp_path / "params" / "combine.h").open("a") as header:
        header.write("// more\n")
    others.append(inputs_digest(COMBINE, compiler))
    assert len({first, *others}) == 1 + len(others)


def test_the_program_writes_image_and_report(toolkit: Path, compiler: Toolkit, tmp_path: Path):
    image, report = tmp_path / "image", tmp_path / "report.json"
    arguments = ["--toolkit", str(toolkit), "--image", str(image), "--report", str(report)]
    assert main(["--variant", COMBINE.name, *arguments]) == 0
    assert image.read_bytes() == compile_variant(COMBINE, compiler).image
    assert json.loads(report.read_text())["variant"] == COMBINE.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "report.json"]


def test_the_program_names_what_is_wrong(toolkit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = tmp_path / "image"
    arguments = ["--toolkit", str(toolkit), "--image", str(image), "--report", str(tmp_path / "report")]
    assert main(["--variant", "combine_sm81", *arguments]) == UnknownVariantError.exit_code
    error = capsys.readouterr().err
    assert error.startswith("kernels: error: variant: got 'combine_sm81'")
    assert error.count("\n") == 1
    assert not image.exists()
