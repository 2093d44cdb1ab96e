"""``python -m flash_attn3 doctor``, on machines where the package itself cannot be imported."""

from __future__ import annotations

import shutil

import pytest

from flash_attn3 import __version__
from tests.doctor_kit import Patient, codes, distribution, fake_driver, torch_files

pytestmark = pytest.mark.slow
COMMAND = ("-m", "flash_attn3", "doctor")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def patient(site_copy, driver):
    """An H200 with the package, and with a torch that fails when it is imported."""
    distribution(site_copy, "flash-attn3", __version__, requires="torch>=2.9", python=">=3.10")
    torch_files(site_copy, "2.12.1+cu130", "13.0")
    found = Patient(site_copy, driver)
    found.gpu(90)
    return found


def test_it_runs_without_importing_torch(patient):
    code, found = patient.report(*COMMAND)
    assert (code, found["ok"], found["problems"], found["version"]) == (0, True, [], __version__)
    assert "the doctor should import nothing" not in patient.run(*COMMAND).stdout
    assert "the doctor should import nothing" in patient.run("-m", "flash_attn3").stderr


def test_its_facts_are_those_of_its_build(patient):
    patient.gpu(75, cuda=11040)
    code, found = patient.report(*COMMAND)
    assert (code, codes(found["problems"]), found["commands"]) == (1, ["driver-too-old", "gpu"], [])
    served = "sm_80; sm_86; sm_89; sm_90; sm_100; sm_120; later GPUs, through PTX"
    assert found["problems"][1]["cause"].endswith(f"there are kernels for {served}")


@pytest.mark.parametrize(
    ("version", "cuda", "problem"),
    [("", None, "torch-missing"), ("2.8.0+cu128", "12.8", "torch-too-old")],
)
def test_a_torch_that_stops_the_import_is_named(patient, version, cuda, problem):
    shutil.rmtree(patient.site / "torch")
    shutil.rmtree(patient.site / "torch-2.12.1.dist-info")
    if version:
        torch_files(patient.site, version, cuda)
    code, found = patient.report(*COMMAND)
    assert (code, codes(found["problems"])) == (1, [problem])
    assert found["commands"][-1].endswith('--torch-backend auto "torch>=2.9"')


def test_an_error_is_explained(patient):
    text = "libcudart.so.12: cannot open shared object file"
    code, found = patient.report(*COMMAND, text)
    assert (code, codes(found["errors"])) == (1, ["cuda-library"])
    assert "torch here is of CUDA 13.0" in found["errors"][0]["cause"]


def test_bad_arguments_have_code_2(patient):
    done = patient.run(*COMMAND, "--site", "https://host.example/")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "doctor: --site: should not be given to the doctor of a wheel, got 'https://host.example/'\n"
    )
    done = patient.run(*COMMAND, "--colour")
    assert done.returncode == 2
    assert "python -m flash_attn3 doctor: error: unrecognized arguments: --colour" in done.stderr


def test_a_damaged_build_record_is_named(patient):
    (patient.site / "flash_attn3" / "build.json").write_text("{")
    done = patient.run(*COMMAND)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("doctor: flash_attn3: ")
    assert "is no build record" in done.stderr
    assert len(done.stderr.splitlines()) == 1
