"""The tuning: what competes, what travels, what follows from figures, and on a GPU the figures themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import FarmError, NoGpu, UnknownCase
from ci.gpu_side.report_file import report_digest
from ci.gpu_side.tune import SEQLENS, Measured, Row, calls_of, ratios_of, read_plan, recommend
from ci.gpu_side.tune import Case as Planned
from ci.stages.build import Workshop
from ci.stages.tune import Case, prepare, tune_cases
from kernels.build.pack import read_pack
from kernels.errors import UnknownVariantError
from kernels.table import CANDIDATES, VARIANTS, select, variant_named
from matrix.cell import Artefact
from matrix.model import read_matrix
from tests.quiet import Quiet

if TYPE_CHECKING:
    from kernels.table.variant import Variant

ROOT = Path(__file__).parents[3]
NAME = "fwd_sm90_bf16_d64_full"
A, B, C = "row_a", "row_b", "row_c"


# ---- what competes


def test_every_candidate_competes_with_rows_of_the_table_or_is_one():
    cases = tune_cases()
    competing = {candidate.name for case in cases for candidate in case.candidates}
    for candidate in CANDIDATES:
        twins = [row for row in VARIANTS if _same_kernel(row, candidate)]
        assert (candidate.name in competing) != bool(twins), candidate.name
    for case in cases:
        for candidate in case.candidates:
            for present in case.present:
                for field in ("op", "sm", "code", "dtype_in", "dtype_out", "head_dim", "head_dim_v", "mask"):
                    assert getattr(candidate, field) == getattr(present, field)


def _same_kernel(one: Variant, other: Variant) -> bool:
    if (one.sm, one.code) != (other.sm, other.code):
        return False
    return {**dict(one.macros), "FA3_KERNEL": ""} == {**dict(other.macros), "FA3_KERNEL": ""}


def test_a_case_holds_all_rows_of_the_table_that_share_it():
    (case,) = tune_cases(["fwd_sm90_bf16_d64_causal"])
    starts = {row.name: row.tail.min_seqlen_q for row in case.present}
    wanted = [row for row in VARIANTS if row.name.startswith("fwd_sm90_bf16_d64_causal")]
    assert starts == {row.name: row.tail.min_seqlen_q for row in wanted}


def test_names_of_candidates_are_their_own_and_fit_a_pack():
    names = [row.name for row in (*VARIANTS, *CANDIDATES)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 64


def test_a_pattern_that_matches_no_case_is_told_the_nearest():
    with pytest.raises(UnknownCase, match=r"'fwd_sm90_bf16_d63_full'; .*fwd_sm90_bf16_d64_full"):
        tune_cases(["fwd_sm90_bf16_d63_full"])


def test_rows_are_found_by_name_in_the_table_and_among_the_candidates():
    for known in (VARIANTS[0], CANDIDATES[0]):
        assert variant_named(known.name) == known
    with pytest.raises(UnknownVariantError, match="'fwd_sm90_bf16_d63_full'"):
        variant_named("fwd_sm90_bf16_d63_full")


# ---- what travels


@pytest.fixture(scope="module")
def prepared(toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one case, its row of the table and one candidate."""
    (case,) = tune_cases([NAME])
    folder = tmp_path_factory.mktemp("tune") / "dir"
    prepare(
        cases=[Case(case.present, case.candidates[:1])],
        folder=folder,
        artefact=Artefact("linux_x86_64", "12.8"),
        matrix=read_matrix(),
        workshop=Workshop(toolkit.parents[2], processors=2),
        progress=Quiet(),
    )
    return folder


@pytest.mark.slow
def test_the_folder_holds_a_pack_with_each_row_alone(prepared: Path):
    (case,) = read_plan(prepared)
    (known,) = tune_cases([NAME])
    assert (case.name, case.head_dim, case.head_dim_v, case.mask) == (NAME, 64, 64, "full")
    assert [row.min_seqlen_q for row in case.rows] == [0, None]
    assert [row.name for row in case.rows] == [NAME, known.candidates[0].name]
    for row in case.rows:
        (record,) = read_pack(row.pack)
        assert record.name == row.name
        assert row.macros["FA3_TILE_M"] == str(record.tile_m)
    shipped = {record.name: record for record in read_pack(prepared / "site/flash_attn3/lib/kernels.fa3pack")}
    assert shipped[NAME].image == read_pack(case.rows[0].pack)[0].image


@pytest.mark.slow
def test_the_package_of_the_folder_takes_each_pack(prepared: Path):
    """The C function that the timing calls, in the library that travels."""
    program = (
        "import sys, pathlib\n"
        "from flash_attn3 import _native\n"
        "for path in sys.argv[1:]:\n"
        "    _native.set_pack(pathlib.Path(path))\n"
        "    _native.kernels.cache_clear()\n"
        "    print(*(kernel.name for kernel in _native.kernels()))\n"
    )
    (case,) = read_plan(prepared)
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(row.pack) for row in case.rows)],
        cwd=prepared,
        env={**os.environ, "PYTHONPATH": "site"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [row.name for row in case.rows]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path):
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(FarmError, match=f"--prepare {tmp_path}: holds files of somebody else"):
        prepare(
            cases=tune_cases([NAME]),
            folder=tmp_path,
            artefact=Artefact("linux_x86_64", "12.8"),
            matrix=read_matrix(),
            workshop=Workshop(tmp_path / "work"),
            progress=Quiet(),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_a_candidate_of_the_table_does_not_compete_with_itself():
    (present,) = select([NAME])
    macros = dict(present.macros)
    twin = replace(present, name="twin", macros=tuple({**macros, "FA3_KERNEL": "twin"}.items()))
    other_macros = {**macros, "FA3_KERNEL": "other", "FA3_TILE_N": "96"}
    other = replace(present, name="other", macros=tuple(other_macros.items()))
    (case,) = tune_cases(table=(present,), candidates=(twin, other))
    assert case == Case((present,), (other,))
    assert tune_cases(table=(present,), candidates=(twin,)) == ()


# ---- what follows


def planned(**starts: int | None) -> Planned:
    rows = tuple(Row(name, Path(name), start, {}) for name, start in starts.items())
    return Planned(A, "bf16", 64, 64, "causal", rows)


@pytest.mark.parametrize(
    ("starts", "ratios", "wanted"),
    [
        ({A: 0, B: None}, {512: {A: 1.0, B: 0.9}, 1024: {A: 1.0, B: 1.0}}, [(A, 0)]),
        ({A: 0, B: None}, {512: {A: 1.0, B: 1.009}}, [(A, 0)]),  # within what two runs differ by
        ({A: 0, B: None}, {512: {A: 1.0, B: 1.05}, 1024: {A: 1.0, B: 1.02}}, [(B, 0)]),
        ({A: 0, B: None}, {512: {A: 1.0, B: 0.8}, 1024: {A: 1.0, B: 1.02}}, [(A, 0), (B, 1024)]),
        (
            {A: 0, B: None, C: None},
            {512: {A: 1.0, B: 1.1, C: 1.2}, 1024: {A: 1.0, B: 1.1, C: 0.9}, 2048: {A: 1.0, B: 1.0, C: 1.0}},
            [(C, 0), (B, 1024), (A, 2048)],
        ),
        # The table's own threshold lies between two lengths that were timed, and stays.
        ({A: 0, B: 3000}, {2048: {A: 1.0, B: 0.9}, 4096: {A: 0.9, B: 1.0}}, [(A, 0), (B, 3000)]),
        ({A: 0, B: 4096}, {2048: {A: 1.0, B: 1.1}, 4096: {A: 0.9, B: 1.0}}, [(B, 0)]),
        ({A: 0, B: None}, {512: {A: 1.0}, 1024: {A: 1.0}}, [(A, 0)]),  # B was wrong everywhere
        ({A: 0, B: None}, {}, []),
    ],
)
def test_the_recommended_rows_and_their_thresholds(
    starts: dict[str, int | None], ratios: dict[int, dict[str, float]], wanted: list[tuple[str, int]]
):
    assert list(recommend(planned(**starts), ratios)) == wanted


def test_the_present_row_of_a_length_is_the_tables():
    case = planned(**{A: 0, B: 4096, C: None})
    assert [case.present(seqlen).name for seqlen in (1, 4095, 4096, 16384)] == [A, A, B, B]


def measured(seqlen: int, row: str, ratio: float | None, *failures: str) -> Measured:
    return Measured(f"s{seqlen}", seqlen, row, None if ratio is None else 1.0, ratio, failures)


def test_a_row_that_was_wrong_once_is_recommended_nowhere():
    results = [
        *(measured(512, A, 1.0), measured(512, B, 1.2), measured(512, B, 0.8)),
        *(measured(1024, A, 1.0), measured(1024, B, 1.1)),
        *(measured(512, C, 1.5), measured(1024, C, None, "rows 0 to 64 of the timed output: too far off")),
    ]
    ratios = ratios_of(results)
    assert ratios == {512: {A: 1.0, B: pytest.approx(0.96**0.5)}, 1024: {A: 1.0, B: 1.1}}


@pytest.mark.parametrize("seqlen", SEQLENS)
def test_each_call_asks_for_the_mask_that_it_stands_for(seqlen: int):
    """A window that reaches every key would be no window to the library, and find no row in a pack of one."""
    assert calls_of("full", seqlen) == ((False, None),)
    assert calls_of("causal", seqlen) == ((True, None),)
    assert calls_of("any", seqlen) == ((False, None), (True, None))
    ((causal, window),) = calls_of("local", seqlen)
    assert causal
    assert window is not None
    assert 0 < window < seqlen - 1


# ---- on a GPU


def run(folder: Path, report: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "farm"), "tune", "--run", str(folder)]
    return subprocess.run(
        [*command, "--report", str(report), "--rounds", "3"], check=False, capture_output=True, text=True
    )


@pytest.mark.slow
def test_without_a_gpu_the_command_ends_with_24(prepared: Path, tmp_path: Path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run(prepared, tmp_path / "r.json")
    assert done.returncode == NoGpu.exit_code == 24
    assert done.stderr.startswith("farm: error: no GPU to tune on: torch ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "r.json").exists()


def test_timing_imports_the_standard_library_alone():
    program = (
        "import sys; before = set(sys.modules)\n"
        "import ci.gpu_side.tune\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - {'ci'}\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "1"], "--rounds 1: must be 2 or more"),
        (["fwd_sm90_bf16_d64_full"], "unrecognized arguments: fwd_sm90_bf16_d64_full"),
        (["--prepare", "dir"], "unrecognized arguments: --prepare dir"),
    ],
)
def test_what_timing_does_not_take_is_refused(tmp_path: Path, arguments: list[str], words: str):
    farm = str(ROOT / "scripts" / "farm")
    command = [sys.executable, farm, "tune", f"--run={tmp_path}", "--report", "r.json", *arguments]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith(f"farm tune: error: {words}\n")


@pytest.mark.parametrize("text", [None, "", "{}", '{"cases": [{"name": 1}]}'])
def test_a_folder_without_a_plan_is_one_error(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    done = run(tmp_path, tmp_path / "r.json")
    assert done.returncode == 1
    assert done.stderr.startswith(f"farm: error: --run {tmp_path}: holds no plan")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.gpu
def test_every_row_is_judged_and_timed(prepared: Path, tmp_path: Path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    done = run(prepared, tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["report_sha256"] == report_digest(document)
    (case,) = document["cases"]
    assert case["error"] == ""
    assert case["verdict"] in {"keep", "change"}
    assert len(case["measured"]) == 2 * len(SEQLENS)
    for measured in case["measured"]:
        assert measured["failures"] == []
        assert 0.2 < measured["ratio"] < 5
        assert (measured["ratio"] == 1) == (measured["row"] == NAME)
