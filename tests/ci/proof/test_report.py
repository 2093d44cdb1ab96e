from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.errors import CorruptReport
from ci.gpu_side.report_file import report_digest, write_report
from ci.proof.report import read_report
from tests.ci.validation_kit import CASE, KERNEL, RACE, ROW, document, failed, tallied, write

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_read(tmp_path: Path):
    report = read_report(write(tmp_path / "reports" / "r.json"))
    assert report.passed
    assert report.wheel_sha256 == "a" * 64
    assert (report.gpu, report.driver, report.torch) == ("NVIDIA H200", "580.10", "2.11.0+cu130")
    assert (report.cases[0].kernel, report.cases[0].passed, report.cases[0].worst) == (
        KERNEL,
        1,
        CASE["name"],
    )
    assert report.worst_error_ratio == 0.25
    assert report.races[0].setting.seqlen == 4096
    assert report.races[0].tflops == 690.5
    assert report.host_times[0].us == 12.5


def _with(**params: str) -> dict[str, Any]:
    return {**CASE, "params": {**CASE["params"], **params}}


def test_a_code_of_an_operator_passes_with_all_its_cases(tmp_path: Path):
    """A failed case fails one code of one operator; other sections count for no operator."""
    portable, ptx = (_with(kernels=kind) for kind in ("portable", "ptx"))
    memory = {**CASE, "section": "memory"}
    combine = {**portable, "section": "combine"}
    path = write(tmp_path / "r.json", **tallied(portable, failed(portable, "wrong"), ptx, memory, combine))
    assert read_report(path).codes_passed == {"fwd": ("ptx",), "combine": ("portable",)}
    assert read_report(write(tmp_path / "other.json")).codes_passed == {"fwd": ("exact",)}


def test_cases_that_passed_are_counted_by_kernel_and_category(tmp_path: Path):
    figures = {"max_error": 0.001, "max_error_limit": 0.004, "rmse": 0.3, "rmse_limit": 0.4, "lse_error": 0.1}
    unmeasured = {"a": None, "a_limit": 1.0, "b": 0.0, "b_limit": 0.0}
    near = {**CASE, "name": "near", "figures": {**figures, **unmeasured}}
    other = {**_with(kernel="other"), "category": "layout", "figures": {}}
    rows = tallied(CASE, near, CASE, other)["cases"]
    assert rows == [
        {
            "section": "correctness",
            "category": "layout",
            "code": "exact",
            "kernel": "other",
            "passed": 1,
            "failed": 0,
        },
        {**ROW, "passed": 3, "worst_ratio": 0.75, "worst": "near"},
    ]
    report = read_report(write(tmp_path / "r.json", **tallied(CASE, near, CASE, other)))
    assert report.totals.cases == 4
    assert report.worst_error_ratio == 0.25


def test_of_a_case_that_failed_everything_is_kept(tmp_path: Path):
    outcome = failed(CASE, "max_error is 1")
    path = write(tmp_path / "r.json", **tallied(CASE, outcome))
    report = read_report(path)
    (case,) = report.outcomes
    params = {"dtype": "bf16", "softmax_scale": None}
    assert (case.code, case.kernel, case.params, case.figures) == ("exact", KERNEL, params, CASE["figures"])
    assert case.failures == ("max_error is 1",)
    assert (report.cases[0].passed, report.cases[0].failed, report.passed) == (1, 1, False)


def test_thousands_of_cases_make_a_small_file(tmp_path: Path):
    """A report grows with the kernels and categories, not with the cases."""
    sizes = [write(tmp_path / "r.json", **tallied(*[CASE] * count)).stat().st_size for count in (2, 9_000)]
    assert sizes[1] - sizes[0] < 10


def test_a_race_may_say_more(tmp_path: Path):
    more = {"head_dim_v": 128, "group": 8, "window": 1024, "varlen": True}
    races = [RACE, {**RACE, "setting": {**RACE["setting"], **more}}]
    path = write(tmp_path / "r.json", races=races, totals={"cases": 1, "races": 2, "failed": 0})
    first, second = (race.setting for race in read_report(path).races)
    assert (first.head_dim_v, first.group, first.window, first.varlen) == (None, 1, None, False)
    assert (second.head_dim_v, second.group, second.window, second.varlen) == (128, 8, 1024, True)


def test_the_races_of_a_report_say_what_they_met(tmp_path: Path):
    more = {"kernels": "portable", "run": 2, "ratio_to_fa3": 1.04, "best": "fa3", "ratio_to_best": 1.04}
    path = write(
        tmp_path / "r.json", races=[RACE, {**RACE, **more}], totals={"cases": 1, "races": 2, "failed": 0}
    )
    first, second = read_report(path).races
    assert (first.kernels, first.run, first.ratio_to_fa3, first.best, first.ratio_to_best) == (
        "",
        1,
        *(None,) * 3,
    )
    assert (second.kernels, second.run, second.ratio_to_fa3, second.best) == ("portable", 2, 1.04, "fa3")


def test_a_report_without_cases_of_an_operator_proves_nothing(tmp_path: Path):
    fields = tallied({**CASE, "section": "memory"})
    assert not read_report(write(tmp_path / "r.json", **fields)).passed
    with pytest.raises(CorruptReport, match="has passed=True"):
        read_report(write(tmp_path / "r.json", **fields | {"passed": True}))


def test_a_report_has_a_line_for_each_row_and_is_json(tmp_path: Path):
    cases = [_with(kernel=f"kernel{number}") for number in range(50)]
    path = write(tmp_path / "r.json", **tallied(*cases))
    assert len(json.loads(path.read_text())["cases"]) == 50
    assert 70 < len(path.read_text().splitlines()) < 115


def test_writing_replaces_the_file_as_a_whole(tmp_path: Path):
    path = write(tmp_path / "r.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float"):
        write(path, wheel_size=float("nan"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_cut_report_is_refused(tmp_path: Path, data: st.DataObject):
    whole = write(tmp_path / "r.json").read_bytes()
    cut = tmp_path / "cut.json"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])
    with pytest.raises(CorruptReport, match=r"cut\.json"):
        read_report(cut)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_an_altered_report_is_refused(tmp_path: Path, data: st.DataObject):
    """One byte changed to any other: the report is refused, or reads as before."""
    path = write(tmp_path / "r.json")
    whole = bytearray(path.read_bytes())
    before = read_report(path)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    altered = tmp_path / "altered.json"
    altered.write_bytes(whole)
    try:
        after = read_report(altered)
    except CorruptReport:
        return
    assert after == before


(FAILED,) = tallied(failed(CASE, "wrong"))["outcomes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1}, "schema_version: should be 2, got 1; validate the wheel again"),
        ({"note": "hello"}, "note: Extra inputs are not permitted"),
        ({"wheel_sha256": "A" * 64}, "wheel_sha256"),
        ({"wheel_size": "1234"}, "wheel_size"),
        ({"gpu": None}, "gpu"),
        ({"compute_capability": "nine"}, "compute_capability"),
        ({"cases": [{**ROW, "passed": "yes"}]}, "cases.0.passed"),
        ({"cases": [{**ROW, "passed": -1}]}, "cases.0.passed"),
        ({"cases": [{**ROW, "worst_ratio": 1.5}]}, "cases.0.worst_ratio"),
        ({"cases": [{**ROW, "passed": 0}]}, "the numbers of its row correctness plain exact"),
        ({"cases": [{**ROW, "passed": 26_000}]}, "totals"),
        ({"cases": [{**ROW, "failed": 1}]}, "the numbers of its row correctness plain exact"),
        ({"cases": [ROW, ROW]}, "two rows of its cases count the same group"),
        ({"outcomes": [{**FAILED, "passed": True}]}, "which contradicts its failures"),
        ({"outcomes": [FAILED]}, "the numbers of its row correctness plain exact"),
        ({"outcomes": [{**FAILED, "kernel": "other"}]}, f"no row of its cases counts {CASE['name']}"),
        ({"cases": [], "totals": {"cases": 0, "races": 1, "failed": 0}}, "has passed=True"),
        ({"races": [{**RACE, "setting": {}}]}, "races.0.setting"),
        ({"totals": {"cases": 5, "races": 1, "failed": 0}}, "totals"),
        ({"passed": False}, "has passed=False"),
    ],
    ids=str,
)
def test_a_report_that_is_sealed_but_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    path = write(tmp_path / "r.json", **changes)
    with pytest.raises(CorruptReport) as caught:
        read_report(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "{}", '{"schema_version": 2}', '{"schema_version": 2, "x": NaN}', "\udcff"),
        "[" * 100_000 + "]" * 100_000,
        '{"schema_version": 2, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=range(9),
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptReport):
        read_report(path)


def test_a_missing_report_is_refused(tmp_path: Path):
    with pytest.raises(CorruptReport, match="No such file"):
        read_report(tmp_path / "none.json")


def test_the_digest_ignores_layout_and_order_alone(tmp_path: Path):
    path = tmp_path / "r.json"
    write_report(path, document())
    sealed = json.loads(path.read_text())
    shuffled = dict(reversed(sealed.items()))
    assert report_digest(shuffled) == sealed["report_sha256"] == report_digest(document())
    assert report_digest({**sealed, "seed": 2}) != sealed["report_sha256"]
