"""The text of the pages that people read; test_browser.py checks how they look."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from index_site.degrees import kernel_proofs, platform_rows
from index_site.gpus import gpu_rows
from index_site.manifest import ExcludedCells, GpuSupport, Manifest, ProjectStatus, Snapshot, Wheel
from index_site.pages import render
from index_site.releases import newest_release
from index_site.rendering import UNKNOWN_BASE
from index_site.snippets import snippets
from matrix.block import Block
from tests.site_kit import emulated_wheel, manifest_wheel, proof, site_manifest

BASE = "https://host.example/fa3/"


def manifest(*wheels: Wheel, base_url: str | None = BASE) -> Manifest:
    windows = Block(
        platform=("win_amd64",), torch=("2.9", "2.10", "2.11"), cuda=("cu128",), sm=("80", "newer")
    )
    exclusions = (ExcludedCells(cells=windows, reason="no Windows machine has run it <yet>"),)
    return site_manifest(*wheels, base_url=base_url, exclusions=exclusions)


def text_of(page: bytes) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", "", page.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())


def index_text(*wheels: Wheel, base_url: str | None = BASE) -> str:
    return text_of(render(manifest(*wheels, base_url=base_url))["index.html"])


def test_every_way_to_install_is_on_the_page_word_for_word() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable")
    text = index_text(wheel)
    for way in snippets(BASE, "stable", [wheel]):
        assert way.command in text
        assert " ".join(way.file_text.split()) in text


def test_the_page_says_what_a_wheel_needs_and_cannot_do() -> None:
    text = index_text(manifest_wheel("0.1.0", channel="stable"))
    for shown in (
        "any head dimension up to 128",
        "It needs torch>=2.9 and an NVIDIA driver for CUDA 12.0 or later (on Linux 525.60.13 or later)",
        "Licence: BSD-3-Clause",
        "for: the backward pass, so no training; decoding with a KV cache; FP8.",
        "If pip finds “no matching distribution” for torch",
        "--uploaded-prior-to",
    ):
        assert shown in text


def test_stable_wheel_shows_its_proofs() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable")
    text = index_text(wheel)
    for shown in (
        wheel.sha256,
        "Passed on NVIDIA H200",
        "driver 580.95.05",
        "418 of 418",
        "0.41",
        "1.07 \N{MULTIPLICATION SIGN} (1.01\N{EN DASH}1.13, geometric mean of 4 shapes)",
    ):
        assert shown in text
    assert f'href="{wheel.proofs[0].path}"' in render(manifest(wheel))["index.html"].decode()


def test_an_emulated_wheel_shows_what_ran_where() -> None:
    proven = manifest_wheel("0.1.0", channel="stable", pack="1" * 64)
    emulated = emulated_wheel("0.1.0", pack="1" * 64)
    page = render(manifest(proven, emulated))["index.html"]
    text = text_of(page)
    assert "where it says emulated, its kernels did in a wheel for another platform" in text
    assert (
        "Passed under emulation, qemu-aarch64 version 7.2.22, aarch64, Python 3.11.2, torch 2.9.1+cpu" in text
    )
    assert "checks of the host part; no kernel ran130 of 130" in text
    assert f'href="{emulated.emulations[0].path}"' in page.decode()
    assert [row.degree for row in platform_rows(manifest(proven, emulated), (proven, emulated))] == [
        "validated",
        "emulated",
    ]


def test_the_proofs_of_its_kernels_stay_when_the_other_wheel_is_yanked() -> None:
    """The page then offers the emulated wheel alone."""
    proven = manifest_wheel("0.1.0", channel="stable", pack="1" * 64, yanked="it has a slow host part")
    emulated = emulated_wheel("0.1.0", pack="1" * 64)
    listed = manifest(proven, emulated)
    assert kernel_proofs(listed, (emulated,)) == proven.proofs
    (row,) = platform_rows(listed, (emulated,))
    assert "those of the wheel for linux_x86_64, which ran on NVIDIA H200" in row.status


def test_a_failed_emulation_names_its_check() -> None:
    (run,) = emulated_wheel("0.2.0").emulations
    failed = run.model_copy(update={"passed": False, "failure": "schema: <boom>", "checks_passed": 129})
    wheel = emulated_wheel("0.2.0", channel="candidate", channel_reason="it failed", emulations=(failed,))
    page = render(manifest(wheel))["index.html"]
    assert "Failed under emulation" in text_of(page)
    assert b"schema: &lt;boom&gt;" in page
    assert "built only: it failed" in text_of(page)


def test_each_gpu_is_shown_with_what_serves_each_operator_and_what_was_proven() -> None:
    """A report proves the kernels on the SM of its GPU; for other SMs it proves the source only."""
    everything = ("exact", "portable", "ptx")
    validated = proof("x").model_copy(
        update={"sm": "90", "proven": {"fwd": everything, "combine": everything}}
    )
    text = index_text(manifest_wheel("0.1.0", channel="stable", proofs=(validated,)))
    hopper = "forward: exact sm_90 kernels; combine: portable kernels"
    validation = "validated on NVIDIA H200 with torch 2.13.0+cu130"
    assert f"H100, H200, GH200 (sm_90){hopper}{validation}" in text
    other = "built, not yet run on this GPU (same source passed on NVIDIA H200)"
    assert f"A100, A30 (sm_80)forward, combine: portable kernels{other}" in text
    later = "forward: PTX for the driver to compile; combine: no kernel"
    assert f"GPUs of later architectures{later}{other}" in text


@pytest.mark.parametrize(
    "change",
    [
        {"quick": True},
        {"passed": False},
        {"proven": {"fwd": ("portable",)}},
        {"proven": {"combine": ("exact",)}},
        {"sm": "89"},
        {"sm": "", "proven": {}},
    ],
)
def test_a_gpu_counts_as_proven_only_after_a_whole_validation_of_its_kernels(change: dict[str, Any]) -> None:
    h200 = GpuSupport(sm="90", gpus="H200", operators={"fwd": "exact"})
    whole = proof("x").model_copy(update={"sm": "90", "proven": {"fwd": ("exact",)}})
    assert gpu_rows([h200], [whole])[0].proven
    (row,) = gpu_rows([h200], [whole.model_copy(update=change)])
    assert not row.proven
    assert row.status.startswith("built, not yet run on ")


def test_a_gpu_counts_as_proven_only_with_every_operator_that_runs_on_it() -> None:
    both = GpuSupport(sm="90", gpus="H200", operators={"fwd": "exact", "combine": "portable", "decode": None})
    forward = proof("x").model_copy(update={"sm": "90", "proven": {"fwd": ("exact",)}})
    (row,) = gpu_rows([both], [forward])
    assert not row.proven
    assert row.kernels == "forward: exact sm_90 kernels; combine: portable kernels; decode: no kernel"
    ran = "validated on NVIDIA H200 with torch 2.13.0+cu130"
    assert row.status == f"forward: {ran}; combine: built, not yet run on a GPU"
    assert row.torches == ()
    combine = proof("y").model_copy(update={"sm": "90", "proven": {"combine": ("portable",)}})
    (row,) = gpu_rows([both], [forward, combine])
    assert (row.proven, row.status, row.torches) == (True, ran, ("2.13.0+cu130",))


def test_what_each_operator_takes_is_shown() -> None:
    text = index_text(manifest_wheel("0.1.0"))
    assert "forwardbf16, fp16; any head dimension up to 128; masks causal, full" in text
    assert "combinefp32" in text


def test_candidate_shows_why_it_is_not_stable() -> None:
    failed = manifest_wheel(
        "0.2.0", proofs=(proof("x", passed=False),), channel_reason="it failed validation"
    )
    text = index_text(manifest_wheel("0.1.0", channel="stable"), failed)
    assert "Not stable: it failed validation." in text
    assert "Failed on NVIDIA H200" in text
    assert "416 of 418" in text
    assert "flash-attn3==0.1.0" in text
    assert "flash-attn3==0.2.0" not in text


def test_without_a_stable_wheel_the_commands_use_the_candidate_channel() -> None:
    text = index_text(manifest_wheel("0.2.0"))
    assert "No wheel is stable yet." in text
    assert f"pip install --index-url {BASE}candidate/simple/ flash-attn3" in text


def test_an_empty_site_has_a_notice() -> None:
    text = index_text()
    assert "This index has no wheel to install yet." in text
    assert "pip install" not in text


def test_snapshots_are_listed_newest_first() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable")
    frozen = tuple(
        Snapshot(date=date, pages={f"{date}/index.html": "0" * 64}) for date in ("2026-11-23", "2026-12-07")
    )
    page = render(site_manifest(wheel, snapshots=frozen))["index.html"].decode()
    assert re.findall(r'href="(20[^"]+)"', page) == ["2026-12-07/index.html", "2026-11-23/index.html"]
    assert "Snapshots" not in text_of(render(site_manifest(wheel))["index.html"])


@pytest.mark.parametrize(
    ("status", "offered"),
    [("active", True), ("deprecated", True), ("archived", True), ("quarantined", False)],
)
def test_the_status_of_a_project_is_said_and_a_quarantined_one_is_not_offered(
    status: Any, offered: bool
) -> None:
    statuses = {"flash-attn3": ProjectStatus(status=status, reason="it was <replaced>")}
    wheel = manifest_wheel("0.1.0", channel="stable")
    page = render(site_manifest(wheel, statuses=statuses, base_url=BASE))["index.html"]
    notice = f"flash-attn3 is {status}: it was <replaced>."
    assert (notice in text_of(page)) == (status != "active")
    assert b"<replaced>" not in page
    assert ("pip install --index-url" in text_of(page)) == offered
    assert ("This index offers no wheel at present." in text_of(page)) != offered


def test_yanked_release_is_not_offered() -> None:
    text = index_text(
        manifest_wheel("0.2.0", channel="stable", yanked="wrong"), manifest_wheel("0.1.0", channel="stable")
    )
    assert "flash-attn3==0.1.0" in text
    assert "flash-attn3==0.2.0" not in text


def test_yank_and_its_reason_are_listed() -> None:
    page = render(manifest(manifest_wheel("0.2.0", yanked="wrong <b>numbers</b>")))["wheels.html"]
    assert "yanked: wrong <b>numbers</b>" in text_of(page.replace(b"&lt;", b"&amp;lt;")).replace("&lt;", "<")
    assert b"<b>numbers" not in page


def test_exclusions_are_listed_with_reasons_and_escaped() -> None:
    page = render(manifest())["index.html"]
    text = "win_amd64, torch 2.9\N{EN DASH}2.11, CUDA 12.8, sm_80 or newer GPUs"
    assert text.encode() in page
    assert b"no Windows machine has run it &lt;yet&gt;" in page


def test_an_unknown_address_has_an_explained_placeholder() -> None:
    text = index_text(manifest_wheel("0.1.0", channel="stable"), base_url=None)
    assert f"--index-url {UNKNOWN_BASE}stable/simple/" in text
    assert "INDEX_URL stands for the address of this page" in text


def test_page_loads_nothing_and_its_policy_forbids_it() -> None:
    for path in ("index.html", "wheels.html"):
        page = render(manifest(manifest_wheel("0.1.0", channel="stable")))[path].decode()
        assert "default-src 'none'" in unescape(page)
        loaded = re.findall(
            r"<(?:img|iframe|object|embed|video|audio|source)\b|<script[^>]+src"
            r"|<link rel=\"(?!alternate)[^>]+href=\"(?!data:)",
            page,
        )
        assert loaded == []


def test_same_manifest_gives_the_same_bytes() -> None:
    wheels = [manifest_wheel(f"0.{n}.0", channel="stable" if n % 2 else "candidate") for n in range(12)]
    assert render(manifest(*wheels)) == render(manifest(*reversed(wheels)))


@pytest.mark.parametrize(
    ("versions", "yanked", "newest"),
    [
        (["0.9.0", "0.10.0"], [], "0.10.0"),
        (["0.9.0", "0.10.0"], ["0.10.0"], "0.9.0"),
        (["0.9.0", "1.0.0rc1"], [], "0.9.0"),
        (["1.0.0rc1", "1.0.0rc2"], [], "1.0.0rc2"),
        (["0.9.0"], ["0.9.0"], None),
        ([], [], None),
    ],
)
def test_newest_release_is_what_an_installer_takes(
    versions: list[str], yanked: list[str], newest: str | None
) -> None:
    wheels = [manifest_wheel(version, yanked="no" if version in yanked else None) for version in versions]
    assert [wheel.version for wheel in newest_release(wheels)] == ([] if newest is None else [newest])
