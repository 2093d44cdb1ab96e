from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.errors import CorruptReport
from ci.gpu_side.report_file import report_digest, write_report
from ci.gpu_side.reported_case import reported_case
from ci.proof.report import read_report
from tests.ci.validation_kit import CASE, RACE, document, failed, write

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_read(tmp_path: Path):
    report = read_report(write(tmp_path / "reports" / "r.json"))
    assert report.passed
    assert report.wheel_sha256 == "a" * 64
    assert (report.gpu, report.driver, report.torch) == ("NVIDIA H200", "580.10", "2.11.0+cu130")
    assert report.cases[0].figures["max_error"] == 0.001
    assert report.worst_error_ratio == 0.25
    assert report.races[0].setting.seqlen == 4096
    assert report.races[0].tflops == 690.5
    assert report.host_times[0].us == 12.5


def test_a_code_of_an_operator_passes_with_all_its_cases(tmp_path: Path):
    """A failed case fails one code of one operator; other sections count for no operator."""
    portable, ptx = ({**CASE, "params": {"kernels": kind}} for kind in ("portable", "ptx"))
    memory = {**CASE, "section": "memory", "params": {"kernels": "exact"}}
    combine = {**portable, "section": "combine"}
    cases = [portable, failed(portable, "wrong"), ptx, memory, combine]
    path = write(
        tmp_path / "r.json",
        cases=cases,
        totals={"cases": 5, "races": 1, "failed": 1},
        passed=False,
    )
    assert read_report(path).codes_passed == {"fwd": ("ptx",), "combine": ("portable",)}
    assert read_report(write(tmp_path / "old.json")).codes_passed == {"fwd": ("exact",)}


def test_what_is_kept_of_a_case_that_passed(tmp_path: Path):
    figures = {"max_error": 0.001, "max_error_limit": 0.004, "rmse": 0.3, "rmse_limit": 0.4, "lse_error": 0.1}
    unmeasured = {"a": None, "a_limit": 1.0, "b": 0.0, "b_limit": 0.0}
    params = {"dtype": "bf16", "kernels": "ptx"}
    passed = reported_case({**CASE, "name": "a@ptx", "params": params, "figures": {**figures, **unmeasured}})
    assert passed == {
        "section": "correctness",
        "name": "a@ptx",
        "kernels": "ptx",
        "error_ratio": 0.25,
        "worst_ratio": 0.75,
    }
    assert reported_case({**CASE, "params": {}, "figures": {}}).keys() == {"section", "name"}
    report = read_report(write(tmp_path / "r.json", cases=[passed]))
    assert report.codes_passed == {"fwd": ("ptx",)}
    assert report.worst_error_ratio == 0.25
    assert (report.cases[0].passed, report.cases[0].failures) == (True, ())


def test_of_a_case_that_failed_everything_is_kept(tmp_path: Path):
    outcome = failed({**CASE, "params": {"dtype": "bf16", "kernels": "exact"}}, "max_error is 1")
    record = reported_case(outcome)
    assert record == {**outcome, "params": {"dtype": "bf16"}, "kernels": "exact"}
    path = write(
        tmp_path / "r.json", cases=[record], totals={"cases": 1, "races": 1, "failed": 1}, passed=False
    )
    (case,) = read_report(path).cases
    assert (case.kernels, case.params, case.figures) == ("exact", {"dtype": "bf16"}, CASE["figures"])


def test_thousands_of_cases_make_a_small_file(tmp_path: Path):
    """What passed takes little more than its name: 24,000 cases with names of 65 letters fit into 4 MB."""
    name = f"{'n' * 55}@portable"
    record = reported_case({**CASE, "name": name, "params": {**CASE["params"], "kernels": "portable"}})
    sizes = [
        write(tmp_path / "r.json", cases=[record] * count, totals={"cases": count, "races": 1, "failed": 0})
        .stat()
        .st_size
        for count in (1, 2)
    ]
    assert sizes[1] - sizes[0] < 4_000_000 / 24_000


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


def test_a_report_without_correctness_proves_nothing(tmp_path: Path):
    cases = [{**CASE, "section": "race"}]
    assert not read_report(write(tmp_path / "r.json", cases=cases, passed=False)).passed
    with pytest.raises(CorruptReport, match="has passed=True"):
        read_report(write(tmp_path / "r.json", cases=cases))


def test_a_report_has_a_line_for_each_case_and_is_json(tmp_path: Path):
    path = write(tmp_path / "r.json", cases=[CASE] * 50, totals={"cases": 50, "races": 1, "failed": 0})
    assert len(json.loads(path.read_text())["cases"]) == 50
    assert 70 < len(path.read_text().splitlines()) < 110


def test_a_report_of_a_failure_is_read(tmp_path: Path):
    cases = [CASE, failed(CASE, "max_error is 1")]
    path = write(tmp_path / "r.json", cases=cases, totals={"cases": 2, "races": 1, "failed": 1}, passed=False)
    report = read_report(path)
    assert not report.passed
    assert report.cases[1].failures == ("max_error is 1",)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema"),
        ({"note": "hello"}, "note: Extra inputs are not permitted"),
        ({"wheel_sha256": "A" * 64}, "wheel_sha256"),
        ({"wheel_size": "1234"}, "wheel_size"),
        ({"gpu": None}, "gpu"),
        ({"cases": [{**CASE, "passed": "yes"}]}, "cases.0.passed"),
        ({"cases": [{**CASE, "passed": False}]}, "which contradicts its failures"),
        ({"cases": [{**CASE, "worst_ratio": 1.5}]}, "passed with 1.5 times its limit"),
        ({"cases": [failed(CASE, "wrong")]}, "totals"),
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
    "text", ["", "[]", "3", "{}", '{"schema_version": 1}', '{"schema_version": 1, "x": NaN}', "\udcff"]
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
