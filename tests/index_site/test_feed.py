"""The Atom feed: whole by RFC 4287, with every release and its state; and the date of the next build."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest

from ci.stages.coverage import context_of
from ci.stages.publish import publish
from index_site.feed import feed, next_build
from index_site.manifest import Manifest, read_manifest
from index_site.pages import render
from matrix.model import read_matrix
from matrix.planner import plan
from tests.quiet import Quiet
from tests.site_kit import NOW, flash_wheel, manifest_wheel, site_manifest

if TYPE_CHECKING:
    from pathlib import Path

ATOM = "{http://www.w3.org/2005/Atom}"
XHTML = "{http://www.w3.org/1999/xhtml}"
BASE = "https://host.example/fa3/"
ONCE = ("id", "title", "updated")
KNOWN = {"id", "title", "updated", "published", "author", "link", "category", "content", "entry"}


def parsed(manifest: Manifest) -> ET.Element:
    """Parse the feed, and check what RFC 4287 demands of any feed."""
    root = ET.fromstring(feed(manifest))  # noqa: S314 (our own text)
    assert root.tag == f"{ATOM}feed"
    entries = root.findall(f"{ATOM}entry")
    for element in (root, *entries):
        assert {child.tag.removeprefix(ATOM) for child in element} <= KNOWN
        for name in ONCE:
            (found,) = element.findall(ATOM + name)
            assert found.text
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", element.findtext(f"{ATOM}id", ""))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", element.findtext(f"{ATOM}updated", ""))
        assert len(element.findall(f"{ATOM}link[@rel='alternate']")) == 1
    assert root.findtext(f"{ATOM}author/{ATOM}name")
    for entry in entries:
        (content,) = entry.findall(f"{ATOM}content")
        assert content.attrib == {"type": "xhtml"}
        assert [child.tag for child in content] == [f"{XHTML}div"]
        assert entry.findtext(f"{ATOM}published", "") <= entry.findtext(f"{ATOM}updated", "")
    ids = [element.findtext(f"{ATOM}id") for element in (root, *entries)]
    assert len(set(ids)) == len(ids)
    return root


def entries(manifest: Manifest) -> dict[str, str]:
    """Title -> the text of the entry's content."""
    found = parsed(manifest).findall(f"{ATOM}entry")
    return {
        entry.findtext(f"{ATOM}title", ""): " ".join("".join(entry.find(f"{ATOM}content").itertext()).split())  # type: ignore[union-attr]
        for entry in found
    }


def test_each_release_is_an_entry_with_its_files_channel_and_state() -> None:
    stable = manifest_wheel("0.1.0", channel="stable")
    arm = manifest_wheel(
        "0.1.0", platform="manylinux_2_28_aarch64", upload_time="2026-11-25T00:00:00Z", channel="candidate"
    )
    yanked = manifest_wheel(
        "0.2.0",
        upload_time="2026-12-06T00:00:00Z",
        yanked="wrong <b>&",
        channel_reason="it failed \u2026 höchst",
    )
    manifest = site_manifest(stable, arm, yanked)
    found = entries(manifest)
    assert list(found) == ["flash-attn3 0.2.0 (candidate, yanked)", "flash-attn3 0.1.0 (stable)"]
    newest, oldest = found.values()
    assert newest == (
        f"{yanked.filename}, candidate, sha256 {yanked.sha256} Not stable: it failed \u2026 höchst. "
        "Yanked: wrong <b>&."
    )
    assert f"{stable.filename}, stable, sha256 {stable.sha256}" in oldest
    assert f"{arm.filename}, candidate, sha256 {arm.sha256} Not stable: no GPU has validated it." in oldest
    entry = parsed(manifest).findall(f"{ATOM}entry")[1]
    assert entry.findtext(f"{ATOM}published") == stable.upload_time
    assert entry.findtext(f"{ATOM}updated") == arm.upload_time
    assert parsed(manifest).findtext(f"{ATOM}updated") == yanked.upload_time


def test_links_lead_to_pages_and_files_of_the_site() -> None:
    wheel = manifest_wheel("0.1.0+local", channel="stable")
    for base in (BASE, None):
        manifest = site_manifest(wheel, base_url=base)
        root = parsed(manifest)
        assert root.get("{http://www.w3.org/XML/1998/namespace}base") == base
        own = [link.attrib["href"] for link in root.findall(f"{ATOM}link[@rel='self']")]
        assert own == ([f"{BASE}feed.xml"] if base else [])
        known = {*render(manifest), f"files/{wheel.filename.replace('+', '%2B')}"}
        for link in root.iter(f"{ATOM}link"):
            assert urljoin(BASE, link.attrib["href"]).removeprefix(BASE) in known
        for link in root.iter(f"{XHTML}a"):
            assert link.attrib["href"] in known
    assert 'type="application/atom+xml"' in render(manifest)["index.html"].decode()


def test_ids_stay_when_the_site_moves_or_a_release_changes_its_state() -> None:
    def ids(*wheels: Any, base_url: str | None) -> list[str | None]:
        found = parsed(site_manifest(*wheels, base_url=base_url))
        return [element.text for element in found.iter(f"{ATOM}id")]

    candidate, stable = manifest_wheel("0.1.0"), manifest_wheel("0.1.0", channel="stable", yanked="no")
    assert ids(candidate, base_url=None) == ids(stable, base_url=BASE)


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    reason = "it failed: \x1b[31m\x00\ufffe red \U0001f525"
    (text,) = entries(site_manifest(manifest_wheel("0.1.0", channel_reason=reason))).values()
    mark = "\N{REPLACEMENT CHARACTER}"
    assert text.endswith(f"Not stable: it failed: {mark}[31m{mark}{mark} red \U0001f525.")


def test_an_empty_site_has_an_empty_feed() -> None:
    assert entries(site_manifest()) == {}


def test_a_wheel_whose_audit_failed_is_not_announced_and_old_releases_leave() -> None:
    unfit = manifest_wheel("9.0.0", audit={"checks_passed": 1, "failures": ("size: too large",)})
    wheels = [
        manifest_wheel(f"0.{n}.0", upload_time=f"2026-{n // 28 + 1:02}-{n % 28 + 1:02}T00:00:00Z")
        for n in range(40)
    ]
    titles = list(entries(site_manifest(unfit, *wheels)))
    assert titles == [f"flash-attn3 0.{n}.0 (candidate)" for n in range(39, 9, -1)]


def test_the_next_build_follows_the_newest_by_the_cadence() -> None:
    wheels = (
        manifest_wheel("0.1.0", upload_time="2026-11-22T09:00:00Z"),
        manifest_wheel("0.0.9", upload_time="2026-12-24T23:59:59Z"),
    )
    manifest = site_manifest(*wheels, cadence_days=14)
    assert next_build(manifest) == date(2027, 1, 7)
    page = render(manifest)["index.html"].decode()
    assert "the next build is due on <time>2027-01-07</time>." in page
    for without in (site_manifest(*wheels), site_manifest(cadence_days=14)):
        assert next_build(without) is None
        assert "build is due" not in render(without)["index.html"].decode()


@pytest.mark.parametrize("later", [True, False])
def test_publish_takes_the_cadence_of_the_matrix_and_keeps_it(tmp_path: Path, later: bool) -> None:
    matrix = read_matrix()
    wheel = flash_wheel(tmp_path)
    put: dict[str, Any] = {"reports": [], "site": tmp_path / "site", "now": NOW, "progress": Quiet()}
    publish(wheels=[wheel], context=context_of(matrix, plan(matrix), {}), **put)
    if later:
        publish(wheels=[wheel], **put)
    assert read_manifest(tmp_path / "site").cadence_days == matrix.release.cadence_days
