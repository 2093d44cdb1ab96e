"""The pages that people read, as text; test_browser.py looks at them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from index_site import render
from index_site.gpus import gpu_rows
from index_site.human import UNKNOWN_BASE
from index_site.manifest import Exclusion, Manifest, SmSupport, Wheel, sort_wheels
from index_site.releases import newest_release
from index_site.snippets import snippets
from tests.site_kit import manifest_wheel, proof

BASE = "https://host.example/fa3/"


def manifest(*wheels: Wheel, base_url: str | None = BASE) -> Manifest:
    exclusions = (Exclusion(cells="win_amd64", reason="no Windows machine has run it <yet>"),)
    return Manifest(wheels=sort_wheels(list(wheels)), base_url=base_url, exclusions=exclusions)


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


def test_stable_wheel_shows_what_vouches_for_it() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable")
    text = index_text(wheel)
    for shown in (
        wheel.sha256,
        "Passed on NVIDIA H200",
        "driver 580.95.05",
        "418 of 418",
        "0.41",
        "1.01\N{EN DASH}1.13 \N{MULTIPLICATION SIGN}",
    ):
        assert shown in text
    assert f'href="{wheel.proofs[0].path}"' in render(manifest(wheel))["index.html"].decode()


def test_each_gpu_is_shown_with_what_serves_it_and_what_was_proven() -> None:
    """A report speaks for the GPU that it ran on; for others it says only that the source is the same."""
    validated = proof("x").model_copy(update={"sm": "90", "kernels": ("exact", "portable", "ptx")})
    text = index_text(manifest_wheel("0.1.0", channel="stable", proofs=(validated,)))
    assert "H100, H200, GH200 (sm_90)Kernels of their own: validated on NVIDIA H200" in text
    other = "built, not yet run on this GPU; the same source passed on NVIDIA H200"
    assert f"A100, A30 (sm_80)Portable kernels: {other}" in text
    assert f"GPUs of later architecturesPTX, which the driver compiles at the first call: {other}" in text


@pytest.mark.parametrize(
    "change",
    [{"quick": True}, {"passed": False}, {"kernels": ("portable",)}, {"sm": "89"}, {"sm": "", "kernels": ()}],
)
def test_a_gpu_counts_as_proven_only_after_a_whole_validation_of_its_kernels(change: dict[str, Any]) -> None:
    validated = proof("x").model_copy(update={"sm": "90", "kernels": ("exact",), **change})
    (row,) = gpu_rows([SmSupport(sm="90", gpus="H200", kernels="exact")], [validated])
    assert not row.proven
    assert row.status.startswith("built, not yet run on ")


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


def test_without_a_stable_wheel_the_lines_name_the_candidate_channel() -> None:
    text = index_text(manifest_wheel("0.2.0"))
    assert "No wheel is stable yet." in text
    assert f"pip install --index-url {BASE}candidate/simple/ flash-attn3" in text


def test_empty_site_says_so() -> None:
    text = index_text()
    assert "No wheel can be installed from this index yet." in text
    assert "pip install" not in text


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
    assert b"win_amd64" in page
    assert b"no Windows machine has run it &lt;yet&gt;" in page


def test_unknown_address_is_named_as_such() -> None:
    text = index_text(manifest_wheel("0.1.0", channel="stable"), base_url=None)
    assert f"--index-url {UNKNOWN_BASE}stable/simple/" in text
    assert "INDEX_URL stands for the address of this page" in text


def test_page_loads_nothing_and_says_so() -> None:
    for path in ("index.html", "wheels.html"):
        page = render(manifest(manifest_wheel("0.1.0", channel="stable")))[path].decode()
        assert "default-src 'none'" in unescape(page)
        loaded = re.findall(
            r"<(?:img|iframe|object|embed|video|audio|source)\b|<script[^>]+src|<link[^>]+href=\"(?!data:)",
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
