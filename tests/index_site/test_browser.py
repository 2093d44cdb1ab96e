"""The page for people in a browser: its commands have the right address, and it fits every screen."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ci.store.serve import served
from index_site.manifest import Manifest, dump_manifest
from index_site.pages import render
from index_site.snippets import snippets
from tests.site_kit import manifest_wheel, proof, site_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]

STABLE = manifest_wheel("0.1.0", channel="stable")
WHEELS = [
    STABLE,
    manifest_wheel(
        "0.2.0", proofs=(proof("x", passed=False),), channel_reason="it failed validation on NVIDIA H200"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        opened = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def write_site(folder: Path, manifest: Manifest) -> Path:
    for path, page in {**render(manifest), "manifest.json": dump_manifest(manifest)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(page)
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a site at ``wheels/fa3/``, so that its address has a path."""
    folder = tmp_path_factory.mktemp("host")
    write_site(folder / "wheels" / "fa3", site_manifest(*WHEELS))
    return folder


def opened(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**options).new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(address)
    return page, messages


def commands(page: Any) -> dict[str, str]:
    found = page.eval_on_selector_all(
        "[data-command]", "all => all.map(n => [n.dataset.command, n.textContent])"
    )
    return dict(found)


def test_commands_have_the_address_that_the_page_is_served_from(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, messages = opened(browser, f"{host}wheels/fa3/")
        ways = snippets(f"{host}wheels/fa3/", "stable", [STABLE])
        assert commands(page) == {way.key: way.command for way in ways}
        files = page.eval_on_selector_all(
            "[data-file]", "all => all.map(n => [n.dataset.file, n.textContent])"
        )
        assert dict(files) == {way.file_name: way.file_text for way in ways if way.file_name}
        assert "INDEX_URL" not in page.inner_text("body")
    assert messages == []


def test_a_page_opened_from_disk_has_the_folder_or_the_configured_address(
    browser: Any, tmp_path: Path
) -> None:
    bare = write_site(tmp_path / "bare", site_manifest(STABLE))
    page, _ = opened(browser, (bare / "index.html").as_uri())
    assert commands(page)["pip"] == f"pip install --index-url {bare.as_uri()}/stable/simple/ flash-attn3"
    known = write_site(tmp_path / "known", site_manifest(STABLE, base_url="https://host.example/"))
    page, _ = opened(browser, (known / "index.html").as_uri())
    assert commands(page)["pip"] == "pip install --index-url https://host.example/stable/simple/ flash-attn3"


def test_without_scripts_the_page_explains_its_placeholder(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, _ = opened(browser, f"{host}wheels/fa3/", java_script_enabled=False)
        text = page.inner_text("body")
    assert "pip install --index-url INDEX_URL/stable/simple/ flash-attn3" in text
    assert "INDEX_URL stands for the address of this page" in text


def test_copy_button_copies_the_line(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        grants = ["clipboard-read", "clipboard-write"]
        page, _ = opened(browser, f"{host}wheels/fa3/", permissions=grants)
        page.click("#install .copy:has([data-command=uv]) button")
        page.wait_for_selector("text=Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == f"uv pip install --index {host}wheels/fa3/stable/simple/ flash-attn3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_page_fits_and_can_be_read(browser: Any, parent: Path, scheme: str, width: int) -> None:
    with served(parent) as host:
        for name in ("", "wheels.html"):
            page, messages = opened(
                browser,
                f"{host}wheels/fa3/{name}",
                viewport={"width": width, "height": 844},
                color_scheme=scheme,
            )
            page.eval_on_selector_all("details", "all => all.forEach(n => { n.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(LOWEST_CONTRAST) >= 4.5
            assert messages == []


def test_page_requests_nothing_but_itself(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page = browser.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{host}wheels/fa3/")
        page.wait_for_load_state("networkidle")
    assert requested == [f"{host}wheels/fa3/"]


# The smallest ratio of luminances (WCAG 2) between any text on the page and the nearest background behind it.
LOWEST_CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = 21;
  for (const node of document.body.querySelectorAll("*")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const pair = [channels(getComputedStyle(node).color), behind(node)].map(luminance).sort((a, b) => b - a);
    lowest = Math.min(lowest, (pair[0] + 0.05) / (pair[1] + 0.05));
  }
  return lowest;
}"""
