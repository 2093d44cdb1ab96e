"""A module in the folder of families is in the table; nothing else is edited."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOY = """
from dataclasses import dataclass
from kernels.table.family import Family
from kernels.table.variant import Tail, Variant

@dataclass(frozen=True)
class ToyTail(Tail):
    depth: int

def _variant(name):
    return Variant(
        name=name, op="toy", sm="80", code="cubin", dtype_in="fp16", dtype_out="fp32", head_dim=64,
        head_dim_v=64, mask="any", source="toy/toy.cu", tile_m=1, tile_n=1, threads=32, smem_bytes=0,
        blocks_per_sm=1, macros=(("FA3_KERNEL", name),), tail=ToyTail(depth=7),
    )

FAMILY = Family(variants=(_variant("toy_sm80"),), candidates=(_variant("toy_sm80_deep"),))
"""
PROGRAM = """
import pathlib, sys
from kernels.build.pack import PackEntry, read_pack, write_pack
from kernels.table import CANDIDATES, VARIANTS, select, variant_named
path = pathlib.Path(sys.argv[1])
write_pack([PackEntry(variant, b"image", "12.8") for variant in select(["toy_*", "combine_sm80"])], path)
print(*(f"{record.name} {record.dtype_out} {record.tail}" for record in read_pack(path)), sep="; ")
print(*dict.fromkeys(variant.op for variant in VARIANTS if variant.op in ("combine", "fwd", "toy")))
print(*(variant.name for variant in VARIANTS if variant.op == "toy"))
print(variant_named("toy_sm80_deep") in CANDIDATES)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(tree: Path, program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(tree / "pack")]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def test_a_new_module_puts_its_operator_into_table_and_pack(tree: Path):
    (tree / "kernels" / "table" / "families" / "toy.py").write_text(TOY)
    done = run(tree, PROGRAM)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "combine_sm80 any (); toy_sm80 fp32 (7,)",
        "combine fwd toy",
        "toy_sm80",
        "True",
    ]


@pytest.mark.parametrize("text", ["", "FAMILY = ()\n"])
def test_a_module_without_a_family_is_an_error_that_names_it(tree: Path, text: str):
    (tree / "kernels" / "table" / "families" / "toy.py").write_text(text)
    done = run(tree, "import kernels.table")
    assert done.returncode == 1
    assert "TypeError: kernels.table.families.toy: FAMILY is " in done.stderr
    assert done.stderr.strip().endswith(", expected a Family")
