"""The client of a package index, against a server that stalls, fails and cuts its answers short."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from ci.engine.package_index import PackageIndex, configured_index
from ci.errors import IndexUnavailable
from tests.ci.engine.index_server import Index, serving, wheel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = [
    wheel("torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl", "a" * 64),
    wheel("torch-2.14.0-cp312-cp312-manylinux_2_28_x86_64.whl", "b" * 64, yanked="it lost weights"),
    wheel("torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl", "c" * 64, yanked=True),
    wheel("torch-2.12.0.tar.gz"),
    {**wheel("torch-2.11.0-py3-none-any.whl"), "hashes": {}},
]


@pytest.fixture
def served() -> Iterator[Index]:
    with serving(Index({"torch": FILES})) as index:
        yield index


def patient(served: Index) -> PackageIndex:
    return PackageIndex(served.url, tries=3, pause_s=0.01, timeout_s=0.3)


def test_the_wheels_of_a_project_are_read(served: Index):
    """Not its sdists, and not wheels without a hash to pin."""
    found = patient(served).wheels("torch")
    assert [(str(wheel.version), wheel.sha256[0], wheel.yanked) for wheel in found] == [
        ("2.15.0", "a", None),
        ("2.14.0", "b", "it lost weights"),
        ("2.13.0", "c", "no reason given"),
    ]


@pytest.mark.parametrize("trouble", ["500", "cut", "stall", "drip", "html"])
def test_what_may_pass_is_asked_for_again(served: Index, trouble: str):
    served.answers["torch"] = [trouble, trouble]
    assert len(patient(served).wheels("torch")) == 3
    assert served.asked == ["torch"] * 3


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("500", "status 500"),
        ("cut", "the answer ended too soon"),
        ("stall", "no whole answer in time"),
        ("drip", "no whole answer in time"),
        ("html", "the answer is no whole JSON"),
    ],
)
def test_what_does_not_pass_is_named_with_its_address(served: Index, trouble: str, reason: str):
    served.answers["torch"] = [trouble] * 9
    started = time.monotonic()
    with pytest.raises(IndexUnavailable) as caught:
        patient(served).wheels("torch")
    assert str(caught.value) == f"{served.url}/torch/: {reason}, in each of 3 tries"
    assert served.asked == ["torch"] * 3
    assert time.monotonic() - started < 10


def test_what_is_not_there_is_asked_for_once(served: Index):
    with pytest.raises(IndexUnavailable, match=rf"^{served.url}/absent/: status 404$"):
        patient(served).wheels("absent")
    assert served.asked == ["absent"]


def test_a_port_where_nobody_answers_is_named():
    with pytest.raises(
        IndexUnavailable, match=r"^http://127\.0\.0\.1:1/torch/: nobody answers, in each of 2"
    ):
        PackageIndex("http://127.0.0.1:1", tries=2, pause_s=0.01).wheels("torch")


def test_a_document_of_another_form_is_refused(served: Index):
    served.projects["torch"] = [{"name": "torch"}]
    with pytest.raises(IndexUnavailable, match=rf"^{served.url}/torch/: should list files as PEP 691 says"):
        patient(served).wheels("torch")


def test_the_index_is_the_one_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """From a variable or a file; without both pip has one of its own."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/of/a/variable")
    assert configured_index() == "http://127.0.0.1:1/of/a/variable"
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:1/of/a/file\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert configured_index() == "http://127.0.0.1:1/of/a/file"
    (tmp_path / "pip.conf").write_text("")
    assert configured_index().startswith("https://")


def test_a_pip_that_names_no_index_is_one_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IndexUnavailable, match=r"^--index: should be given, for pip names none"):
        configured_index()
