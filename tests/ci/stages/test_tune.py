"""The tuning: its tasks, the prepared folder, the recommendation, and on a GPU the timing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.engine.local import LocalEngine
from ci.errors import FarmError, NoGpu, UnknownTask
from ci.gpu_side.recommendation import Measured, ratios_of, recommend
from ci.gpu_side.report_file import report_digest
from ci.gpu_side.tune import SEQLENS
from ci.gpu_side.tune_plan import Contender, Task, calls_of, read_plan
from ci.stages.build import Workshop
from ci.stages.tune import TuningTask, prepare, tuning_tasks
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
A, B, C = "variant_a", "variant_b", "variant_c"


# ---- what competes


def test_every_candidate_competes_with_rows_of_the_table_or_is_one():
    tasks = tuning_tasks()
    competing = {candidate.name for task in tasks for candidate in task.candidates}
    for candidate in CANDIDATES:
        twins = [variant for variant in VARIANTS if _same_kernel(variant, candidate)]
        assert (candidate.name in competing) != bool(twins), candidate.name
    for task in tasks:
        for candidate in task.candidates:
            for present in task.present:
                for field in ("op", "sm", "code", "dtype_in", "dtype_out", "head_dim", "head_dim_v", "mask"):
                    assert getattr(candidate, field) == getattr(present, field)


def _same_kernel(one: Variant, other: Variant) -> bool:
    if (one.sm, one.code) != (other.sm, other.code):
        return False
    return {**dict(one.macros), "FA3_KERNEL": ""} == {**dict(other.macros), "FA3_KERNEL": ""}


def test_a_case_holds_all_rows_of_the_table_that_share_it():
    (task,) = tuning_tasks(["fwd_sm90_bf16_d64_causal"])
    starts = {variant.name: variant.tail.min_seqlen_q for variant in task.present}
    wanted = [variant for variant in VARIANTS if variant.name.startswith("fwd_sm90_bf16_d64_causal")]
    assert starts == {variant.name: variant.tail.min_seqlen_q for variant in wanted}


def test_names_of_candidates_are_their_own_and_fit_a_pack():
    names = [variant.name for variant in (*VARIANTS, *CANDIDATES)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 64


def test_a_pattern_that_matches_no_case_is_told_the_nearest():
    with pytest.raises(UnknownTask, match=r"'fwd_sm90_bf16_d63_full'; .*fwd_sm90_bf16_d64_full"):
        tuning_tasks(["fwd_sm90_bf16_d63_full"])


def test_rows_are_found_by_name_in_the_table_and_among_the_candidates():
    for known in (VARIANTS[0], CANDIDATES[0]):
        assert variant_named(known.name) == known
    with pytest.raises(UnknownVariantError, match="'fwd_sm90_bf16_d63_full'"):
        variant_named("fwd_sm90_bf16_d63_full")


# ---- what travels


@pytest.fixture(scope="module")
def prepared(toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task, its variant of the table and one candidate."""
    (task,) = tuning_tasks([NAME])
    folder = tmp_path_factory.mktemp("tune") / "dir"
    prepare(
        tasks=[TuningTask(task.present, task.candidates[:1])],
        folder=folder,
        artefact=Artefact("linux_x86_64", "12.8"),
        matrix=read_matrix(),
        workshop=Workshop(toolkit.parents[2], engine=LocalEngine(processors=2)),
        progress=Quiet(),
    )
    return folder


@pytest.mark.slow
def test_the_folder_holds_a_pack_with_each_row_alone(prepared: Path):
    (task,) = read_plan(prepared)
    (known,) = tuning_tasks([NAME])
    assert (task.name, task.op, task.head_dim, task.head_dim_v, task.mask) == (NAME, "fwd", 64, 64, "full")
    assert [variant.min_seqlen_q for variant in task.variants] == [0, None]
    assert [variant.name for variant in task.variants] == [NAME, known.candidates[0].name]
    for variant in task.variants:
        (record,) = read_pack(variant.pack)
        assert record.name == variant.name
        assert variant.macros["FA3_TILE_M"] == str(record.tile_m)
    shipped = {record.name: record for record in read_pack(prepared / "site/flash_attn3/lib/kernels.fa3pack")}
    assert shipped[NAME].image == read_pack(task.variants[0].pack)[0].image


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
    (task,) = read_plan(prepared)
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(variant.pack) for variant in task.variants)],
        cwd=prepared,
        env={**os.environ, "PYTHONPATH": "site"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [variant.name for variant in task.variants]


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "plan.json").touch()  # so it may be the tuning's, but the picture is not
    with pytest.raises(FarmError, match=f"--prepare {tmp_path}: holds files that are not the tuning's"):
        prepare(
            tasks=tuning_tasks([NAME]),
            folder=tmp_path,
            artefact=Artefact("linux_x86_64", "12.8"),
            matrix=read_matrix(),
            workshop=Workshop(tmp_path / "work"),
            progress=Quiet(),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"cat.jpg", "plan.json"}


def test_a_candidate_of_the_table_does_not_compete_with_itself():
    (present,) = select([NAME])
    macros = dict(present.macros)
    twin = replace(present, name="twin", macros=tuple({**macros, "FA3_KERNEL": "twin"}.items()))
    other_macros = {**macros, "FA3_KERNEL": "other", "FA3_TILE_N": "96"}
    other = replace(present, name="other", macros=tuple(other_macros.items()))
    (task,) = tuning_tasks(table=(present,), candidates=(twin, other))
    assert task == TuningTask((present,), (other,))
    assert tuning_tasks(table=(present,), candidates=(twin,)) == ()


# ---- what follows


def planned(**starts: int | None) -> Task:
    variants = tuple(Contender(name, Path(name), start, {}) for name, start in starts.items())
    return Task(A, "fwd", "bf16", 64, 64, "causal", variants)


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
        # The table's own threshold is between two timed lengths, and is kept.
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
    task = planned(**{A: 0, B: 4096, C: None})
    assert [task.present(seqlen).name for seqlen in (1, 4095, 4096, 16384)] == [A, A, B, B]


def measured(seqlen: int, variant: str, ratio: float | None, *failures: str) -> Measured:
    return Measured(f"s{seqlen}", seqlen, variant, None if ratio is None else 1.0, ratio, failures)


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
    """The library drops a window that covers every key; the pack then has no variant for the call."""
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


@pytest.mark.parametrize("text", [None, "", "{}", '{"tasks": [{"name": 1}]}'])
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
    (task,) = document["tasks"]
    assert task["error"] == ""
    assert task["decision"] in {"keep", "change"}
    assert len(task["measured"]) == 2 * len(SEQLENS)
    for measured in task["measured"]:
        assert measured["failures"] == []
        assert 0.2 < measured["ratio"] < 5
        assert (measured["ratio"] == 1) == (measured["variant"] == NAME)
