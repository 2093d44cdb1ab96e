"""doctor.py of a site, run by a real Python on machines with other packages, drivers and GPUs."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import requests

from ci.stages.publish import publish
from ci.store.serve import served
from index_site.docs import DOCS
from index_site.manifest import ExcludedCells, Manifest, ProjectStatus
from index_site.pages import render
from matrix.block import Block
from tests.doctor_kit import Patient, codes, distribution, fake_driver, torch_files
from tests.page_kit import release_manifest
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, manifest_wheel, report, site_manifest, torch_folder

pytestmark = pytest.mark.slow
BASE = "https://host.example/fa3/"
PIP = f"{shlex.quote(sys.executable)} -m pip install --index-url {BASE}stable/simple/ flash-attn3"
UV = f"uv pip install --python {shlex.quote(sys.executable)} --index {BASE}stable/simple/ flash-attn3"
MACHINE_KEYS = {
    *("python", "implementation", "executable", "platform", "libc", "libc_version", "pip", "uv", "torch"),
    *("driver", "distributions", "modules", "variables"),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("doctor"), release_manifest().model_copy(update={"base_url": BASE}))


def write(folder: Path, manifest: Manifest) -> str:
    path = folder / "doctor.py"
    path.write_bytes(render(manifest)["doctor.py"])
    return str(path)


@pytest.fixture
def patient(driver: Path, tmp_path: Path) -> Patient:
    """An H200 with a torch of CUDA 13, and without this project."""
    site = tmp_path / "site-packages"
    torch_files(site, "2.12.1+cu130", "13.0")
    found = Patient(site, driver)
    found.gpu(90)
    return found


def with_uv(patient: Patient, folder: Path) -> None:
    (folder / "uv").write_text("#!/bin/sh\n")
    (folder / "uv").chmod(0o755)
    patient.variables["PATH"] = str(folder)


def test_a_machine_without_the_package_gets_the_line_of_the_page(
    doctor: str, patient: Patient, tmp_path: Path
) -> None:
    code, found = patient.report(doctor)
    assert (code, found["ok"], codes(found["problems"])) == (1, False, ["not-installed"])
    assert found["commands"] == [PIP]
    assert found["version"] == "0.3.0"
    assert found["machine"].keys() == MACHINE_KEYS
    assert found["machine"]["driver"] == {
        "cuda": "13.0",
        "gpus": [{"name": "Fake GPU", "sm": 90}],
        "error": "",
    }
    assert found["machine"]["torch"] == {"version": "2.12.1+cu130", "cuda": "13.0"}
    assert found["cell"] | {"python": ""} == {
        "platform": "linux_x86_64",
        "python": "",
        "sm": "90",
        "torch": "2.12",
        "cuda": "cu130",
    }
    with_uv(patient, tmp_path)
    assert patient.report(doctor)[1]["commands"] == [UV]
    text = patient.run(doctor).stdout
    assert text.endswith(f"wrong: flash-attn3 is not installed\n\nTo mend it:\n  {UV}\n")


def test_a_machine_with_all_of_it_is_well(doctor: str, patient: Patient) -> None:
    distribution(patient.site, "flash-attn3", "0.3.0")
    code, found = patient.report(doctor)
    assert (code, found["ok"], found["problems"], found["commands"]) == (0, True, [], [])
    assert patient.run(doctor).stdout.endswith("\nall is well: flash-attn3 0.3.0 can run here\n")


def test_an_older_release_is_replaced(doctor: str, patient: Patient) -> None:
    distribution(patient.site, "flash-attn3", "0.2.0")
    _, found = patient.report(doctor)
    assert (codes(found["problems"]), found["commands"]) == (["outdated"], [f"{PIP} --upgrade"])


@pytest.mark.parametrize(
    ("sm", "cuda", "init", "problem", "words"),
    [
        (75, 13000, 0, "gpu", "no kernel runs on Fake GPU (sm_75); there are kernels for A100, A30 (sm_80)"),
        (90, 11040, 0, "driver-too-old", "the driver supports CUDA 11.4; 12.0 or newer is needed"),
        (90, 13000, 803, "driver-failed", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
        (0, 13000, 0, "no-gpu", "CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_what_is_wrong_with_the_gpu_is_named(  # noqa: PLR0917
    doctor: str, patient: Patient, sm: int, cuda: int, init: int, problem: str, words: str
) -> None:
    patient.gpu(sm, cuda, init)
    patient.variables["CUDA_VISIBLE_DEVICES"] = ""
    code, found = patient.report(doctor)
    assert code == 1
    assert codes(found["problems"])[0] == problem
    assert words in found["problems"][0]["cause"]
    assert bool(found["commands"]) == (problem != "gpu")


@pytest.mark.parametrize(("sm", "name"), [(80, "80"), (87, "86"), (103, "100"), (121, "120"), (140, "newer")])
def test_a_gpu_between_the_named_ones_has_the_kernels_of_the_nearest(
    doctor: str, patient: Patient, sm: int, name: str
) -> None:
    patient.gpu(sm)
    assert patient.report(doctor)[1]["cell"]["sm"] == name


def test_without_a_driver_it_says_so_and_lives(doctor: str, patient: Patient) -> None:
    patient.with_driver = False
    code, found = patient.report(doctor)
    assert (code, codes(found["problems"])) == (1, ["driver-missing", "not-installed"])
    assert "libcuda.so.1" in found["problems"][0]["cause"]


@pytest.mark.parametrize(
    ("torch", "cuda", "driver_cuda", "problem", "wanted"),
    [
        ("", None, 13000, "torch-missing", r'--torch-backend cu13\d "torch==2\.\d+\.\*"'),
        ("2.8.0+cu128", "12.8", 12080, "torch-too-old", r'--torch-backend cu12\d "torch==2\.\d+\.\*"'),
        ("2.12.0+cpu", None, 13000, "torch-without-cuda", r"--torch-backend cu13\d "),
        ("2.12.0+cu130", "13.0", 12080, "torch-newer-than-driver", r"--torch-backend cu12\d "),
        ("2.10.0+cu132", "13.2", 13020, "excluded", r"--torch-backend cu13\d "),
    ],
)
def test_the_torch_that_is_missing_or_wrong_is_installed_first(  # noqa: PLR0917
    doctor: str,
    patient: Patient,
    tmp_path: Path,
    torch: str,
    cuda: str | None,
    driver_cuda: int,
    problem: str,
    wanted: str,
) -> None:
    patient.site = tmp_path / "other"
    patient.site.mkdir()
    if torch:
        torch_files(patient.site, torch, cuda)
    patient.gpu(90, driver_cuda)
    _, found = patient.report(doctor)
    assert codes(found["problems"]) == [problem, "not-installed"]
    assert found["commands"][0].endswith("-m pip install uv")
    assert re.search(wanted, found["commands"][1])
    assert found["commands"][2] == PIP
    if problem == "excluded":
        assert "torch has no CUDA 13.2 build before 2.12" in found["problems"][0]["cause"]


def test_a_platform_without_a_wheel_gets_the_reason_of_the_matrix(patient: Patient, tmp_path: Path) -> None:
    here = Block(platform=("linux_x86_64",))
    reason = "it's not ''' built \\ yet"
    wheel = manifest_wheel("0.1.0", channel="stable", platform="win_amd64")
    excluded = (ExcludedCells(cells=here, reason=reason),)
    code, found = patient.report(write(tmp_path, site_manifest(wheel, exclusions=excluded)))
    assert (code, codes(found["problems"]), found["commands"]) == (1, ["platform"], [])
    assert found["problems"][0]["cause"].endswith(f"only for win_amd64: {reason}")


def test_an_old_glibc_and_an_old_python_are_named(patient: Patient, tmp_path: Path) -> None:
    wheel = manifest_wheel(
        "0.1.0", channel="stable", platform="manylinux_2_99_x86_64", requires_python=">=3.99"
    )
    _, found = patient.report(write(tmp_path, site_manifest(wheel)))
    assert codes(found["problems"]) == ["python-too-old", "libc"]
    assert "needs 3.99 or newer" in found["problems"][0]["cause"]
    assert "the wheel needs 2.99 or newer" in found["problems"][1]["cause"]
    assert found["commands"] == []


def test_a_site_without_a_release_says_so(patient: Patient, tmp_path: Path) -> None:
    statuses = {"flash-attn3": ProjectStatus(status="quarantined", reason="it is wrong")}
    for manifest in (Manifest(), site_manifest(manifest_wheel("0.1.0"), statuses=statuses)):
        _, found = patient.report(write(tmp_path, manifest))
        assert codes(found["problems"]) == ["no-release"]


def test_the_owner_of_a_module_is_found_and_another_is_removed(doctor: str, patient: Patient) -> None:
    distribution(patient.site, "flash-attn3", "0.3.0")
    distribution(
        patient.site, "flash_attn_3", "3.0.0", modules=["flash_attn_interface.py", "flash_attn_3/_C.py"]
    )
    code, found = patient.report(doctor)
    assert code == 0  # it takes no name of this project
    assert [(m["name"], m["owner"], m["ours"]) for m in found["machine"]["modules"]] == [
        ("flash_attn_interface", "flash-attn-3", False),
        ("flash_attn_3", "flash-attn-3", False),
    ]
    assert [(d["name"], d["ours"]) for d in found["machine"]["distributions"]] == [
        ("flash-attn3", True),
        ("flash-attn-3", False),
    ]


def test_a_copied_module_in_the_way_of_the_second_wheel_is_named(doctor: str, patient: Patient) -> None:
    distribution(patient.site, "flash-attn3", "0.3.0")
    distribution(
        patient.site,
        "flash-attn-3",
        "3.0.0+0.3.0",
        modules=["flash_attn_3/_C.py"],
        requires="flash-attn3==0.3.0",
    )
    (patient.site / "flash_attn_interface.py").write_text("")
    code, found = patient.report(doctor)
    assert (code, codes(found["problems"])) == (1, ["module-in-the-way"])
    assert str(patient.site / "flash_attn_interface.py") in found["problems"][0]["cause"]


def test_passwords_in_variables_are_not_printed(doctor: str, patient: Patient) -> None:
    patient.variables["PIP_INDEX_URL"] = "https://user:secret@host.example/simple"
    done = patient.run(doctor)
    assert "PIP_INDEX_URL=https://***@host.example/simple" in done.stdout
    assert "secret" not in done.stdout


ERRORS = [
    ("undefined-symbol", "ImportError: /x/flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so: undefined symbol: _ZN3c105ErrorC2E", "it is of flash-attn.", "pip uninstall -y flash-attn"),
    ("undefined-symbol", "ImportError: /x/flash_attn_3/_C.abi3.so: undefined symbol: aoti_torch_abi_version", "it is of flash-attn-3.", "pip uninstall -y flash-attn-3"),
    ("undefined-symbol", "OSError: /x/flash_attn3/lib/libflash_attn3_torch.so: undefined symbol: torch_x", "needs torch 2.9 or newer", "torch=="),
    ("glibc", "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.32' not found (required by /x/flash_attn_2_cuda.so)", "compiled on a system with GLIBC 2.32; this one has glibc", "pip uninstall -y flash-attn"),
    ("no-kernel-image", "CUDA error (flash_attn_3/hopper/x.h:12): no kernel image is available for execution on the device", "of another flash-attn-3", "uninstall -y flash-attn-3"),
    ("no-kernel-image", "RuntimeError: CUDA error: no kernel image is available for execution on the device", "no code for Fake GPU (sm_90)", PIP),
    ("cuda-library", "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", "built for CUDA 12, and torch here is of CUDA 13.0", ""),
    ("renamed-wheel", "Requested flash-attn3==0.1.0+cu130 has inconsistent version: expected '0.1.0+cu130', but metadata has '0.1.0'", "renamed", PIP),
    ("no-distribution", "ERROR: No matching distribution found for flash-attn3", "asked another index", PIP),
    ("no-distribution", "ERROR: Could not find a version that satisfies the requirement torch>=2.9 (from flash-attn3)", "install it first", "torch=="),
    ("driver-too-old", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "CUDA 12.0 or newer", ""),
    ("driver-missing", "RuntimeError: Found no NVIDIA driver on your system.", "--gpus all", ""),
    ("other-provider", "ImportError: cannot import name 'flash_attn_func' from 'flash_attn_interface' (/x.py)", "in the way", "uninstall -y flash-attn-3"),
    ("other-provider", "RuntimeError: Only a single TORCH_LIBRARY can be used to register the namespace flash_attn_3; x", "in the way", "uninstall -y flash-attn-3"),
    ("no-interface", "ModuleNotFoundError: No module named 'flash_attn_interface'", "flash-attn-3, does", ""),
    ("unsupported-wheel", "ERROR: flash_attn-2.8-cp39-cp39-linux_x86_64.whl is not a supported wheel on this platform.", "flash_attn-2.8-cp39-cp39-linux_x86_64.whl is for another", PIP),
    ("torch-too-old", "ImportError: flash_attn3 needs torch 2.9 or newer; this is torch 2.8.1", "torch here: 2.12.1+cu130", "torch=="),
    ("torch-without-cuda", "AssertionError: Torch not compiled with CUDA enabled", "built without CUDA", "torch=="),
    ("hash-mismatch", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "proxy", ""),
    ("no-kernel-yet", "NotImplementedError: k_new has no kernel in flash_attn3 yet: it must be None; it is a Tensor", "no kernel serves it", ""),
    ("no-kernel-yet", "NotImplementedError: q has no FP8 kernel yet: it must be torch.float16", "no kernel serves it", ""),
    ("no-kernel-yet", "NotImplementedError: page_table has no backward kernel: call attention on pages under torch.no_grad()", "no kernel serves it", ""),
    ("no-kernel-yet", "NotImplementedError: flash_attn3 has no kernel for this backward pass: combine and second derivatives have none", "no kernel serves it", ""),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "words", "line"), ERRORS, ids=lambda value: str(value)[:24])
def test_a_pasted_error_gets_its_cause_and_what_mends_it(  # noqa: PLR0917
    doctor: str, patient: Patient, code: str, text: str, words: str, line: str
) -> None:
    status, found = patient.report(doctor, text)
    assert (status, codes(found["errors"])) == (1, [code])
    (error,) = found["errors"]
    assert words in error["cause"]
    assert line in "\n".join(error["commands"])
    assert bool(error["commands"]) == bool(line)


def test_an_error_comes_from_standard_input_or_a_file(doctor: str, patient: Patient, tmp_path: Path) -> None:
    text = f"Traceback:\n  File x\n{ERRORS[0][1]}\n{ERRORS[6][1]}\n"
    wanted = ["undefined-symbol", "cuda-library"]
    assert codes(patient.report(doctor, "--error", "-", text=text)[1]["errors"]) == wanted
    (tmp_path / "log").write_text(text)
    assert codes(patient.report(doctor, "--error", str(tmp_path / "log"))[1]["errors"]) == wanted


def test_an_unknown_error_is_not_guessed(doctor: str, patient: Patient) -> None:
    done = patient.run(doctor, "ZeroDivisionError: division by zero")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "the doctor does not recognise this error; without an error it checks the machine\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--error", "/nowhere/log"], "doctor: --error: should be a file or -, got '/nowhere/log'"),
        (["--error", "-", "text"], "doctor: --error: should not be given together with ERROR_TEXT, got '-'"),
        (["--error", "-"], "doctor: --error: should be an error message, got nothing"),
        (["--site", "x; rm"], "doctor: --site: should be an address such as https://HOST/PATH/, got 'x; rm'"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_bad_argument_is_one_line_and_code_2(
    doctor: str, patient: Patient, arguments: list[str], words: str
) -> None:
    done = patient.run(doctor, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr.splitlines()[-1]


def test_each_heading_of_troubleshooting_is_recognised(doctor: str, patient: Patient) -> None:
    """But for the heading about mirrors, which no installer raises as an error."""
    page = (Path(__file__).parents[2] / "index_site" / "docs" / "troubleshooting.md").read_text(
        encoding="utf-8"
    )
    headings = [line[3:].replace("`", "") for line in page.splitlines() if line.startswith("## ")]
    asked = [heading for heading in headings if "Skipping page" not in heading]
    assert len(asked) == len(headings) - 1
    unknown = [heading for heading in asked if not patient.report(doctor, heading)[1]["errors"]]
    assert unknown == []


def test_the_file_is_python_3_8_with_each_name_once(doctor: str) -> None:
    tree = ast.parse(Path(doctor).read_text(encoding="utf-8"), feature_version=(3, 8))
    names = Counter(
        name
        for node in tree.body
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            else [ast.unparse(target) for target in node.targets]
            if isinstance(node, ast.Assign)
            else []
        )
    )
    assert len(names) > 60
    assert [name for name, count in names.items() if count > 1] == []
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_pages_link_to_it() -> None:
    pages = render(release_manifest())
    assert 'href="doctor.py"' in pages["index.html"].decode()
    assert "troubleshooting" in DOCS
    assert 'href="../doctor.py"' in pages["docs/troubleshooting.html"].decode()


def test_the_line_from_a_served_site_installs_and_then_all_that_lacks_is_a_gpu(tmp_path: Path) -> None:
    wheel = flash_wheel(tmp_path / "dist")
    proven = [report(tmp_path / "r.json", wheel)]
    site = tmp_path / "site"
    publish(wheels=[wheel], reports=proven, site=site, now=NOW, progress=Quiet(), policy=TRUSTING)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    packages = torch_folder(tmp_path / "torch")
    (packages / "torch" / "version.py").write_text("__version__ = '2.9.0+cu130'\ncuda = '13.0'\n")
    environment = {"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"}
    python = str(tmp_path / "venv" / "bin" / "python")
    with served(site) as base:
        answer = requests.get(f"{base}doctor.py", timeout=60)
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        (tmp_path / "doctor.py").write_bytes(answer.content)
        patient = [python, str(tmp_path / "doctor.py"), "--site", base]
        done = subprocess.run(patient, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        line = done.stdout.splitlines()[-1].strip()
        assert line == f"{python} -m pip install --index-url {base}stable/simple/ flash-attn3"
        subprocess.run(line, shell=True, env=environment, check=True, capture_output=True)  # noqa: S602 (as users do)
        done = subprocess.run(patient, env=environment, capture_output=True, text=True, check=False)
    assert "wrong: flash-attn3 is not installed" not in done.stdout
    assert "package  flash-attn3 0.1.0, " in done.stdout
