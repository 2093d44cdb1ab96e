"""The command line in a process of its own: exit codes, standard output and standard error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from ci.cli.invocation import now
from ci.stages.publish import publish
from index_site.manifest import read_manifest
from kernels.table import VARIANTS
from matrix.cell import Cell
from tests.quiet import Quiet
from tests.site_kit import NOW, flash_wheel, report

ROOT = Path(__file__).parents[3]


def farm(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ci", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_help_lists_the_stages_in_order():
    result = farm("--help")
    assert result.returncode == 0
    listed = re.findall(r"^  (\w+)  ", result.stdout.split("Commands:")[1], re.MULTILINE)
    stages = ["variants", "plan", "build", "audit", "validate", "publish", "serve", "verify", "run"]
    assert [name for name in listed if name in stages] == stages


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["variants", "fwd_sm90_bf16_d129_full"], 10, ["_d129_full'", "fwd_sm90_bf16_d128_full"]),
        (["variants", "--sm", "75"], 12, ["'75'", "80"]),
        (["variants", "--sm", "80", "fwd_sm90_*", "combine_sm90*"], 10, ["--sm 80", "fwd_sm90_*, combine_"]),
        (["build", "--sm", "80", "--only", "fwd_sm90_*"], 10, ["--sm 80", "fwd_sm90_*"]),
        (["plan", "--toolkit", "12.9"], 11, ["'12.9'", "12.8"]),
        (["plan", "--sm", "75"], 12, ["'75'", "80"]),
        (["plan", "linux_x86_64-py39-*"], 16, ["'linux_x86_64-py39-*'", "linux_x86_64-py3"]),
        (["build", "--toolkit", "11.8"], 11, ["'11.8'", "12.8"]),
        (["build", "--sm", "75"], 12, ["'75'", "80"]),
        (["build", "--only", "fwdd_*"], 10, ["fwdd_*", "fwd_"]),
        (["build", "macos_arm64-cuda12.8"], 16, ["'macos_arm64-cuda12.8'", "linux_aarch64-cuda12.8"]),
        (["build", "win_amd64-cuda12.8"], 16, ["win_amd64-cuda12.8: no Windows wheel is built yet"]),
        (["build", "win*"], 16, ["win*: no Windows wheel is built yet"]),
        (["build", "--jobs", "0"], 2, ["--jobs"]),
        (["audit", "absent-1.0-py3-none-any.whl"], 20, ["absent-1.0-py3-none-any.whl"]),
        (["audit"], 2, ["WHEEL"]),
        (["publish"], 2, ["WHEEL", "--report", "--base-url"]),
        (["publish", "--report", "absent.json", "--channel", "stable"], 2, ["--channel"]),
        (["publish", "--report", "absent.json"], 21, ["absent.json"]),
        (["tune", "fwd_sm90_bf16_d63_full"], 33, ["_d63_full'", "fwd_sm90_bf16_d64_full"]),
        (["serve", "--site", "absent"], 28, ["absent/manifest.json"]),
        (["yank", "*", "--reason", "", "--site", "absent"], 1, ["reason: ", "got ''"]),
        (["yank", "*", "--reason", "wrong", "--site", "absent"], 25, ["absent is not a site", "--site"]),
        (["rebuild", "--site", "absent"], 25, ["absent is not a site", "--site"]),
        (["serve", "--site", "s3://Bucket/x"], 1, ["site: ", "s3://BUCKET/PREFIX", "'s3://Bucket/x'"]),
        (
            ["serve", "--endpoint-url", "http://127.0.0.1:1"],
            2,
            ["--endpoint-url", "--site s3://BUCKET/PREFIX"],
        ),
        (["serve", "--nginx-config", "--site", "s3://bucket/x"], 2, ["--nginx-config", "folder"]),
        (["prune", "--reason", "", "--site", "absent"], 1, ["reason: ", "got ''"]),
        (["prune", "--reason", "old", "--site", "absent"], 25, ["absent is not a site", "--site"]),
        (["snapshot", "yesterday", "--site", "absent"], 1, ["date: ", "2026-12-07", "'yesterday'"]),
        (["snapshot", "--site", "absent"], 25, ["absent is not a site", "--site"]),
        (["status", "flash-attn3", "dead"], 2, ["dead", "quarantined"]),
        (["status", "flash-attn3", "archived"], 1, ["reason: ", "archived", "got ''"]),
        (["sign", "absent.json", "--key", "absent.pem"], 21, ["absent.json"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_bad_input_is_one_error_with_its_own_exit_code(
    arguments: list[str], exit_code: int, words: list[str]
):
    result = farm(*arguments)
    assert result.returncode == exit_code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    for word in words:
        assert word in last
    if exit_code != 2:
        assert last.startswith("farm: error: ")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("epoch", ["abc", "", "1e9", "-1", "1.5", " 7", "253402300800", "9" * 400])
def test_a_time_that_is_none_is_refused(tmp_path: Path, epoch: str):
    result = farm("publish", "--report", "absent.json", "--site", tmp_path, SOURCE_DATE_EPOCH=epoch)
    assert result.returncode == 40
    (line,) = result.stderr.splitlines()
    assert line.startswith("farm: error: SOURCE_DATE_EPOCH: should be whole seconds since 1970, 0 to ")
    assert line.endswith(f"got {epoch!r}")


@pytest.mark.parametrize("epoch", ["0", "1700000000", "253402300799"])
def test_a_time_that_is_one_is_taken(monkeypatch: pytest.MonkeyPatch, epoch: str):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert now().timestamp() == int(epoch)


def test_an_error_of_the_system_names_the_file_and_no_number(tmp_path: Path):
    (tmp_path / "file").touch()
    result = farm("build", "--work", tmp_path / "file" / "work")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(rf"farm: error: {tmp_path}/file/work\S*: Not a directory", line)


def test_variants_as_json():
    rows = json.loads(farm("variants", "--json").stdout)
    assert [row["name"] for row in rows] == [variant.name for variant in VARIANTS]
    for row, variant in zip(rows, VARIANTS, strict=True):
        for field in (
            "op",
            "sm",
            "dtype_in",
            "dtype_out",
            "head_dim",
            "head_dim_v",
            "mask",
            "threads",
            "smem_bytes",
        ):
            assert row[field] == getattr(variant, field)


def test_variants_are_narrowed_by_patterns():
    rows = json.loads(farm("variants", "--json", "fwd_*_causal").stdout)
    assert [row["name"] for row in rows] == [row.name for row in VARIANTS if row.name.endswith("_causal")]


@pytest.mark.parametrize(
    ("sm", "targets"),
    [
        ("90", {("90a", "cubin"), ("90", "cubin")}),
        ("86", {("86", "cubin")}),
        ("newer", {("80", "ptx")}),
    ],
)
def test_variants_are_narrowed_to_the_gpus_they_are_compiled_for(sm: str, targets: set[tuple[str, str]]):
    rows = json.loads(farm("variants", "--json", "--sm", sm).stdout)
    assert {(row["sm"], row["code"]) for row in rows} == targets


def test_variants_for_people_are_never_cut():
    shown = farm("variants").stdout
    for variant in VARIANTS:
        assert variant.name in shown


def test_plan_as_json_names_every_cell_once():
    document = json.loads(farm("plan", "--json").stdout)
    cells = [row["cell"] for row in (*document["cells"], *document["exclusions"])]
    assert len(cells) == len({Cell.parse(cell) for cell in cells}) > 500
    known = {row["artefact"] for row in document["artefacts"]}
    assert {row["artefact"] for row in document["cells"]} <= known
    assert all(row["reason"] for row in document["exclusions"])
    assert document["release"] == {
        "cadence_days": 14,
        "channels": ["stable", "candidate"],
        "toolkit": "12.8",
        "required": ["fwd"],
        "min_cases": 5,
        "keep_candidates_days": 180,
        "keys": {},
    }


def test_plan_for_people_gives_every_reason_and_gpu():
    document = json.loads(farm("plan", "--json").stdout)
    shown = farm("plan").stdout
    for row in document["gpus"]:
        line = next(line for line in shown.splitlines() if row["gpus"] in line)
        assert row["kernels"] in line
        assert row["status"] in line
    for reason in {row["reason"] for row in document["exclusions"]}:
        assert reason in shown
    assert f"{len(document['cells'])} cells served, {len(document['exclusions'])} excluded" in shown


def test_a_reader_that_goes_away_is_no_crash():
    command = f"{sys.executable} -m ci plan --json | head -n 1"
    result = subprocess.run(["bash", "-c", command], check=True, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "{\n"
    assert result.stderr == ""


def test_a_missing_wheelhouse_is_refused(tmp_path: Path):
    result = farm("build", "--work", tmp_path, FARM_WHEELHOUSE=str(tmp_path / "absent"))
    assert result.returncode == 2
    assert str(tmp_path / "absent") in result.stderr


@pytest.mark.slow
def test_a_toolkit_wheel_that_is_not_there_is_one_error(tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if key != "FARM_WHEELHOUSE"}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ci", "build", "--work", str(tmp_path / "work")]
    result = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 13
    line = result.stderr.splitlines()[-1]
    assert line.startswith("farm: error: toolkit 12.8: pip could not download nvidia-cuda-nvrtc-cu12")


def test_audit_of_the_wheel(whole_wheel: Path):
    result = farm("audit", whole_wheel)
    assert result.returncode == 0
    assert "FAILED" not in result.stdout
    (document,) = json.loads(farm("audit", "--json", whole_wheel).stdout)
    assert {check["ok"] for check in document["checks"]} == {True}
    assert document["wheel"] == str(whole_wheel)


def test_audit_of_a_truncated_wheel(wheel: Path, tmp_path: Path):
    cut = tmp_path / wheel.name
    cut.write_bytes(wheel.read_bytes()[:-100])
    result = farm("audit", wheel, cut)
    assert result.returncode == 20
    assert result.stderr.startswith(f"farm: error: {wheel.name}: ")


@pytest.mark.slow
def test_a_report_that_comes_later_promotes_the_wheel(whole_wheel: Path, tmp_path: Path):
    site, wheel = tmp_path / "site", tmp_path / whole_wheel.name
    shutil.copyfile(whole_wheel, wheel)
    with zipfile.ZipFile(wheel, "a") as archive:  # the tree may hold a report for the bytes as they were
        archive.comment = b"other bytes"
    first = farm("publish", "--site", site, wheel)
    assert first.returncode == 0, first.stderr
    assert f"{wheel.name}: candidate, since no GPU has validated it" in first.stderr
    given = report(tmp_path / "r.json", wheel, cases=5)
    unsigned = farm("publish", "--site", site, "--report", given)
    assert (
        f"{wheel.name}: candidate, since it passed, but no key of matrix.toml has signed" in unsigned.stderr
    )
    later = farm("publish", "--site", site, "--report", given, "--trust-unsigned")
    assert later.returncode == 0, later.stderr
    assert later.stdout == f"{site}\n"
    assert later.stderr == f"{wheel.name}: stable\n"
    assert [wheel.channel for wheel in read_manifest(site).wheels] == ["stable"]


def test_serve_on_a_busy_port_or_a_foreign_address_is_one_line(tmp_path: Path):
    site = _site(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = farm("serve", "--site", site, "--port", port)
    foreign = farm("serve", "--site", site, "--host", "192.0.2.1")
    assert (busy.returncode, foreign.returncode) == (37, 37)
    assert busy.stderr == (
        f"farm: error: cannot serve at 127.0.0.1, port {port}: Address already in use; "
        "give another --port, or none for a free one\n"
    )
    assert "cannot serve at 192.0.2.1, port 0: Cannot assign requested" in foreign.stderr


def _site(folder: Path) -> Path:
    publish(wheels=[flash_wheel(folder)], reports=[], site=folder / "site", now=NOW, progress=Quiet())
    return folder / "site"


def test_a_key_is_made_and_signs_reports(tmp_path: Path):
    given, key = report(tmp_path / "r.json", flash_wheel(tmp_path)), tmp_path / "release-2027.pem"
    made = farm("keygen", key)
    line = made.stdout.splitlines()[-1]
    assert re.fullmatch(r'"release-2027" = "[0-9a-f]{64}"', line)
    public = line.split('"')[3]
    signed = farm("sign", given, "--key", key)
    assert signed.stdout == f"{given}: signed with the key {public}\n"
    refused = farm("publish", "--report", given, "--site", _site(tmp_path))
    assert refused.returncode == 35
    assert (
        f"is signed with the key {public}, which release.keys of matrix.toml does not list" in refused.stderr
    )


@pytest.mark.slow
def test_serve_shows_lines_that_work_until_it_is_interrupted(tmp_path: Path):
    wheel = flash_wheel(tmp_path / "dist")
    publish(wheels=[wheel], reports=[], site=tmp_path / "site", now=NOW, progress=Quiet())
    command = [sys.executable, "-m", "ci", "serve", "--site", str(tmp_path / "site")]
    with (
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        ExitStack() as stopping,
    ):
        stopping.callback(process.kill)  # a failure must not leave the test waiting for the server
        assert process.stdout is not None
        first, pip, uv = (process.stdout.readline().strip() for _ in range(3))
        base = re.fullmatch(
            rf"{tmp_path / 'site'} is served at (http://127\.0\.0\.1:\d+/) until Ctrl-C", first
        )
        assert base is not None
        assert pip == f"pip install --index-url {base[1]}candidate/simple/ flash-attn3"
        assert uv == f"uv pip install --index {base[1]}candidate/simple/ flash-attn3"
        with requests.Session() as session:
            session.trust_env = False
            page = session.get(f"{base[1]}candidate/simple/flash-attn3/", timeout=10)
        assert wheel.name in page.text
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_the_script_refuses_an_old_python():
    """The version is checked before anything that an old Python cannot read."""
    script = (ROOT / "scripts" / "farm").read_text(encoding="utf-8")
    old = "import sys; sys.version_info = (3, 9, 18)\n" + script
    result = subprocess.run([sys.executable, "-c", old], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("farm: error: needs Python 3.10 or newer")
