"""The pages that installers read."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_site.machine import machine_pages
from tests.site_kit import manifest_wheel, site_manifest

HOST = "https://host.example/deep/path/"


class Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.meta: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.found.append(values)
        elif tag == "meta" and "name" in values:
            self.meta[values["name"] or ""] = values["content"]


def parsed(page: bytes) -> Anchors:
    anchors = Anchors()
    anchors.feed(page.decode())
    return anchors


@pytest.mark.parametrize("path", ["stable/index.html", "stable/simple/flash-attn3/index.html"])
def test_anchor_carries_what_pip_reads(path: str) -> None:
    wheel = manifest_wheel("0.1.0", channel="stable", yanked='bad "math" & more')
    anchors = parsed(machine_pages(site_manifest(wheel))[path])
    (anchor,) = anchors.found
    address, fragment = urldefrag(urljoin(HOST + path, anchor["href"] or ""))
    assert address == HOST + "files/" + wheel.filename
    assert fragment == f"sha256={wheel.sha256}"
    assert anchor["data-requires-python"] == ">=3.10"
    assert (
        anchor["data-core-metadata"] == anchor["data-dist-info-metadata"] == f"sha256={wheel.metadata_sha256}"
    )
    assert anchor["data-yanked"] == 'bad "math" & more'
    assert anchors.meta["pypi:repository-version"] == "1.4"


def test_project_page_states_its_status() -> None:
    pages = machine_pages(site_manifest(manifest_wheel("0.1.0")))
    assert parsed(pages["candidate/simple/flash-attn3/index.html"]).meta["pypi:project-status"] == "active"


def test_wheel_that_is_not_yanked_has_no_yank_mark() -> None:
    (anchor,) = parsed(machine_pages(site_manifest(manifest_wheel("0.1.0")))["candidate/index.html"]).found
    assert "data-yanked" not in anchor


def test_json_project_has_every_field_of_the_api() -> None:
    wheels = [manifest_wheel(version, channel="stable") for version in ("0.10.0", "0.9.0")]
    path = "stable/simple/v1+json/flash-attn3/index.json"
    document = json.loads(machine_pages(site_manifest(*wheels))[path])
    assert document["meta"] == {"api-version": "1.4"}
    assert document["name"] == "flash-attn3"
    assert document["project-status"] == {"status": "active"}
    assert document["versions"] == ["0.9.0", "0.10.0"]
    entry = document["files"][1]
    wheel = wheels[0]
    assert entry == {
        "filename": wheel.filename,
        "url": f"../../../../files/{wheel.filename}",
        "hashes": {"sha256": wheel.sha256},
        "core-metadata": {"sha256": wheel.metadata_sha256},
        "requires-python": ">=3.10",
        "size": wheel.size,
        "upload-time": "2026-11-22T09:00:00Z",
        "yanked": False,
    }
    assert urljoin(HOST + path, entry["url"]) == f"{HOST}files/{wheel.filename}"


def test_plus_of_a_local_version_is_escaped() -> None:
    pages = machine_pages(site_manifest(manifest_wheel("0.1.0+cu130.1")))
    (anchor,) = parsed(pages["candidate/index.html"]).found
    assert (anchor["href"] or "").startswith("../files/flash_attn3-0.1.0%2Bcu130.1-py3")


def test_stable_lists_proven_wheels_only_and_candidate_lists_all() -> None:
    pages = machine_pages(site_manifest(manifest_wheel("0.1.0", channel="stable"), manifest_wheel("0.2.0")))
    listed = {
        channel: len(parsed(pages[f"{channel}/index.html"]).found) for channel in ("stable", "candidate")
    }
    assert listed == {"stable": 1, "candidate": 2}


def test_channel_without_wheels_has_valid_empty_pages() -> None:
    pages = machine_pages(site_manifest(manifest_wheel("0.1.0")))
    assert parsed(pages["stable/index.html"]).found == []
    assert json.loads(pages["stable/simple/v1+json/index.json"])["projects"] == []
    assert "stable/simple/flash-attn3/index.html" not in pages


def test_projects_come_before_the_roots_that_lead_to_them() -> None:
    paths = list(machine_pages(site_manifest(manifest_wheel("0.1.0", channel="stable"))))
    assert paths.index("stable/simple/flash-attn3/index.html") < paths.index("stable/simple/index.html")
    assert paths.index("stable/simple/v1+json/flash-attn3/index.json") < paths.index(
        "stable/simple/v1+json/index.json"
    )


versions = st.from_regex(r"\A[0-9]{1,3}\.[0-9]{1,3}(\.post[0-9])?(\+[a-z0-9]{1,5}(\.[a-z0-9]{1,5})?)?\Z")


@settings(max_examples=50, deadline=None)
@given(st.lists(versions, unique=True, max_size=8), st.text(max_size=20), st.randoms(use_true_random=False))
def test_every_view_agrees_on_every_wheel(names: list[str], reason: str, random: object) -> None:
    wheels = [manifest_wheel(version, yanked=reason) for version in names]
    pages = machine_pages(site_manifest(*wheels))
    random.shuffle(wheels)  # type: ignore[attr-defined]
    assert machine_pages(site_manifest(*wheels)) == pages
    wanted = {wheel.filename: (wheel.sha256, reason) for wheel in wheels}
    for path, page in pages.items():
        if path.endswith(("candidate/index.html", "candidate/simple/flash-attn3/index.html")):
            seen = {}
            for anchor in parsed(page).found:
                address, fragment = urldefrag(urljoin(HOST + path, anchor["href"] or ""))
                name = unquote(address.removeprefix(HOST + "files/"))
                seen[name] = (fragment.removeprefix("sha256="), anchor["data-yanked"])
            assert seen == wanted
        elif path == "candidate/simple/v1+json/flash-attn3/index.json":
            files = json.loads(page)["files"]
            assert {
                entry["filename"]: (entry["hashes"]["sha256"], entry["yanked"]) for entry in files
            } == wanted
