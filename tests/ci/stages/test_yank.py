"""Yanking wheels, and undoing it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import FarmError, UnknownWheel, UnsafeSite
from ci.stages.publish import publish, yank
from tests.quiet import Quiet
from tests.site_kit import NOW, flash_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Manifest

PAGE = "candidate/simple/flash-attn3/index.html"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    wheels = [flash_wheel(tmp_path / "dist", version=version) for version in ("0.1.0", "0.2.0")]
    publish(wheels=wheels, reports=[], site=tmp_path / "site", now=NOW, progress=Quiet())
    return tmp_path / "site"


def tree(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def yanked(site: Path, pattern: str, reason: str | None) -> tuple[Manifest, list[str]]:
    progress = Quiet()
    manifest = yank(site=site, patterns=[pattern], reason=reason, progress=progress)
    return manifest, [text.split(": ", 1)[1] for text in progress.said]


def test_yank_and_back(site: Path, tmp_path: Path) -> None:
    before = tree(site)
    manifest, said = yanked(site, "flash_attn3-0.2.0-*", "wrong for sq = 0")
    assert [wheel.yanked for wheel in manifest.wheels] == [None, "wrong for sq = 0"]
    assert said == ["yanked: wrong for sq = 0"]
    assert 'data-yanked="wrong for sq = 0"' in (site / PAGE).read_text()
    wheel = flash_wheel(tmp_path / "dist", version="0.2.0")
    again = publish(wheels=[wheel], reports=[], site=site, now=NOW, progress=Quiet())
    assert again.wheels == manifest.wheels
    assert yanked(site, "*-0.2.0-*", None)[1] == ["no longer yanked"]
    assert tree(site) == before
    with pytest.raises(UnknownWheel, match=r"no published wheel matches 'flash_attn3-0\.3\.0\*'"):
        yanked(site, "flash_attn3-0.3.0*", "x")


def test_an_earlier_reason_stays(site: Path) -> None:
    yanked(site, "*-0.1.0-*", "wrong for sq = 0")
    manifest, said = yanked(site, "*", "the whole line is withdrawn")
    assert [wheel.yanked for wheel in manifest.wheels] == ["wrong for sq = 0", "the whole line is withdrawn"]
    assert said == ["was yanked before: wrong for sq = 0", "yanked: the whole line is withdrawn"]
    yanked(site, "*-0.1.0-*", None)
    assert yanked(site, "*", None)[1] == ["is not yanked", "no longer yanked"]


@pytest.mark.parametrize(
    "reason", ["", "  ", "two\nlines", "a\ttab", "bell \a", "\x1b[31mred", "line\u2028separator"]
)
def test_a_reason_that_pages_cannot_show_is_refused(site: Path, reason: str) -> None:
    before = tree(site)
    with pytest.raises(FarmError, match="reason: should be one line of text that says what is wrong, got "):
        yanked(site, "*", reason)
    assert tree(site) == before


@pytest.mark.parametrize("reason", ['bad "math" & more', "höchste Zeit", "<b>", "0"])
def test_html_and_json_yank_alike(site: Path, reason: str) -> None:
    yanked(site, "*-0.1.0-*", reason)
    entries = json.loads((site / "candidate/simple/v1+json/flash-attn3/index.json").read_bytes())["files"]
    assert [entry["yanked"] for entry in entries] == [reason, False]
    assert (site / PAGE).read_text().count("data-yanked=") == 1


def test_a_wrong_site_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    other: dict[str, Any] = {"site": tmp_path / "siet", "progress": Quiet()}
    with pytest.raises(UnsafeSite, match="siet is not a site of this farm"):
        yank(patterns=["*"], reason="x", **other)
    with pytest.raises(UnsafeSite, match="siet is not a site of this farm"):
        publish(wheels=[], reports=[], now=NOW, **other)
    assert list(tmp_path.iterdir()) == []
