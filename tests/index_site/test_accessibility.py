"""Everybody can read the pages of a release: axe finds nothing, they fit a phone, and they are small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.store.serve import served
from index_site.docs import DOCS
from index_site.pages import render
from tests.page_kit import release_manifest, write_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
pytestmark = pytest.mark.slow

PAGES = ("index.html", "wheels.html", *(f"docs/{name}.html" for name in DOCS))
BUDGET = 120_000
EXCLUDED = "#win_amd64-py310-torch2.15-cu130-sm80"
OPEN = "all => all.forEach(node => { node.open = true; })"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(write_pages(tmp_path_factory.mktemp("site"), release_manifest())) as address:
        yield address


def violations(page: Any) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [f"{item['id']}: {node['html'][:200]}" for item in found for node in item["nodes"]]


@pytest.mark.parametrize(
    ("scheme", "paths"),
    [("light", PAGES), ("dark", ("index.html", f"index.html{EXCLUDED}", "docs/migrating.html"))],
)
def test_axe_finds_nothing(browser: Any, host: str, scheme: str, paths: tuple[str, ...]) -> None:
    context = browser.new_context(color_scheme=scheme)
    for path in paths:
        page = context.new_page()
        page.goto(f"{host}{path}")
        page.eval_on_selector_all("details", OPEN)
        assert violations(page) == [], path
        page.close()


def test_axe_finds_a_fault_where_there_is_one(browser: Any, host: str) -> None:
    page = browser.new_page()
    page.goto(host)
    page.eval_on_selector(
        "#selector label", "label => label.replaceWith(...label.querySelectorAll('select'))"
    )
    assert [fault.partition(":")[0] for fault in violations(page)] == ["select-name"]


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_no_page_scrolls_sideways_and_charts_can_be_read(browser: Any, host: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 740})
    for path in PAGES:
        page = context.new_page()
        page.goto(f"{host}{path}")
        page.eval_on_selector_all("details", OPEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        if path == "index.html":
            heights = page.eval_on_selector_all(
                ".chart text", "all => all.map(node => node.getBoundingClientRect().height)"
            )
            assert len(heights) > 50
            assert min(heights) >= 10
        page.close()


def test_the_index_page_is_small_and_all_that_is_transferred(browser: Any, host: str) -> None:
    assert len(render(release_manifest(candidates=20))["index.html"]) <= BUDGET
    page = browser.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    page.goto(host)
    page.wait_for_load_state("networkidle")
    assert list(sizes) == [host]
    assert sizes[host] <= BUDGET


def test_every_chart_has_its_figures_as_a_table(browser: Any, host: str) -> None:
    page = browser.new_page()
    page.goto(host)
    charts = page.query_selector_all(".chart")
    assert len(charts) > 10
    for chart in charts:
        assert chart.query_selector("svg[role=img][aria-label]")
        assert not chart.query_selector("table").is_visible()
        chart.query_selector("summary").press("Enter")
        assert chart.query_selector("table").is_visible()
        assert len(chart.query_selector_all("tbody tr")) >= 3
