"""The committed workflows: what the matrix makes, and clean under the checkers of GitHub's workflows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.errors import UnfitMatrix
from ci.workflows.actions import ACTIONS
from ci.workflows.generate import FOLDER, workflows, write_workflows
from matrix.model import read_matrix
from matrix.planner import plan

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / FOLDER).iterdir())
NEEDS = {
    "plan": None,
    "build": "plan",
    "audit": "build",
    "validate": "audit",
    "emulate": "audit",
    "publish": ["validate", "emulate"],
    "verify": "publish",
    "deploy": "verify",
}


def read(text: str) -> dict[Any, Any]:
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def release() -> dict[Any, Any]:
    return read((ROOT / FOLDER / "release.yml").read_text())


def test_the_committed_files_are_those_that_the_matrix_makes():
    assert {file.name: file.read_text() for file in FILES} == workflows(read_matrix())


def test_they_are_written_where_github_looks(tmp_path: Path):
    written = write_workflows(read_matrix(), tmp_path)
    assert [path.relative_to(tmp_path) for path in written] == [FOLDER / file.name for file in FILES]


def test_zizmor_finds_nothing():
    command = [
        Path(sys.executable).with_name("zizmor"),
        "--offline",
        "--no-progress",
        "--pedantic",
        ROOT / FOLDER,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_what_it_should(tmp_path: Path):
    """So that the test above can fail: an expression in a script, and an action by its tag."""
    text = (ROOT / FOLDER / "release.yml").read_text()
    text = text.replace('build "$ARTEFACT"', "build ${{ github.event.inputs.artefact }}")
    text = text.replace(f"{ACTIONS['checkout']}", "actions/checkout@v5")
    (tmp_path / "release.yml").write_text(text)
    command = [
        Path(sys.executable).with_name("zizmor"),
        "--offline",
        "--no-progress",
        tmp_path / "release.yml",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    for finding in ("template-injection", "unpinned-uses"):
        assert finding in done.stdout


def test_they_follow_the_schema_of_workflows():
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *FILES,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(
    shutil.which("actionlint") is None, reason="actionlint is no package of PyPI with a program"
)
def test_actionlint_finds_nothing():
    done = subprocess.run(["actionlint", *FILES], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_each_stage_needs_the_one_before(release: dict[Any, Any]):
    jobs = release["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == NEEDS
    assert jobs["build"]["if"] == "needs.plan.outputs.due == 'true'"


def test_what_is_emulated_follows_from_the_matrix(release: dict[Any, Any]):
    """Without such a platform there is no such job, and nothing waits for it."""
    matrix = read_matrix()
    emulated = [row.name for row in matrix.platform if row.proof == "emulation"]
    artefacts = release["jobs"]["emulate"]["strategy"]["matrix"]["artefact"]
    assert artefacts == [f"{name}-cuda{matrix.release.toolkit}" for name in emulated] != []
    on_gpus = [row.model_copy(update={"proof": "gpu"}) for row in matrix.platform]
    without = read(workflows(matrix.model_copy(update={"platform": tuple(on_gpus)}))["release.yml"])["jobs"]
    assert "emulate" not in without
    assert without["publish"]["needs"] == ["validate"]


def test_what_is_built_and_how_often_follow_from_the_matrix(release: dict[Any, Any]):
    matrix = read_matrix()
    released = sorted({str(row.artefact) for row in plan(matrix).served})
    for name in ("build", "audit"):
        assert release["jobs"][name]["strategy"]["matrix"]["artefact"] == released
    monthly = matrix.release.model_copy(update={"cadence_days": 28})
    assert "--every 28 " in workflows(matrix.model_copy(update={"release": monthly}))["release.yml"]
    odd = matrix.release.model_copy(update={"cadence_days": 10})
    with pytest.raises(UnfitMatrix, match=r"^release\.cadence_days: should be a multiple of 7, .* got 10$"):
        workflows(matrix.model_copy(update={"release": odd}))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_is_granted_that_a_job_does_not_need(file: Path):
    document = read(file.read_text())
    assert document["permissions"] == {}
    assert "pull_request_target" not in document[True]  # YAML reads the key `on` as true
    assert document["concurrency"]["group"]
    for name, job in document["jobs"].items():
        writes = {scope for scope, access in job["permissions"].items() if access == "write"}
        assert writes == {"deploy": {"contents"}, "watch": {"issues"}}.get(name, set())
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", "")


def scripts(document: dict[Any, Any]) -> list[str]:
    return [step["run"] for job in document["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_script_is_one_that_the_shell_reads(file: Path):
    for script in scripts(read(file.read_text())):
        done = subprocess.run(["bash", "-n"], input=script, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_every_command_of_the_farm_that_they_run_is_one(release: dict[Any, Any]):
    documents = [release, read((ROOT / FOLDER / "watch.yml").read_text())]
    called = {
        name
        for document in documents
        for script in scripts(document)
        for name in re.findall(r"scripts/farm (\w+)", script)
    }
    proofs = {"validate", "emulate", "gate", "sign"}
    assert called == {"plan", "build", "audit", "publish", "verify", "watch"} | proofs
    for name in called - {"validate"}:
        done = subprocess.run([sys.executable, "-m", "ci", name, "--help"], check=False, cwd=ROOT)
        assert done.returncode == 0, name
