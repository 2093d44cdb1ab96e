"""The page for people in a browser: its commands have the right address, and it fits every screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.store.serve import served
from index_site.manifest import ExcludedCells, Manifest
from index_site.snippets import snippets
from matrix.block import Block
from tests.page_kit import write_pages
from tests.site_kit import SUPPORT, emulated_wheel, manifest_wheel, proof, site_manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

EVERYTHING = ("exact", "portable", "ptx")
PROVEN = {"fwd": EVERYTHING, "combine": EVERYTHING}
VALIDATED = proof("x").model_copy(update={"torch": "2.9.1+cu130", "proven": PROVEN})
STABLE = manifest_wheel("0.1.0", channel="stable", proofs=(VALIDATED,))
WINDOWS = ExcludedCells(cells=Block(platform=("win_amd64",)), reason="nobody has run it on Windows <yet>")
OLD_PYTHON = ExcludedCells(cells=Block(python=("3.10",), torch=("2.15",)), reason="torch has no such wheel")
WHEELS = [
    STABLE,
    manifest_wheel(
        "0.2.0", proofs=(proof("x", passed=False),), channel_reason="it failed validation on NVIDIA H200"
    ),
]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a site at ``wheels/fa3/``, so that its address has a path."""
    folder = tmp_path_factory.mktemp("host")
    write_pages(folder / "wheels" / "fa3", site_manifest(*WHEELS, exclusions=(WINDOWS, OLD_PYTHON)))
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
    bare = write_pages(tmp_path / "bare", site_manifest(STABLE))
    page, _ = opened(browser, (bare / "index.html").as_uri())
    assert commands(page)["pip"] == f"pip install --index-url {bare.as_uri()}/stable/simple/ flash-attn3"
    known = write_pages(tmp_path / "known", site_manifest(STABLE, base_url="https://host.example/"))
    page, _ = opened(browser, (known / "index.html").as_uri())
    assert commands(page)["pip"] == "pip install --index-url https://host.example/stable/simple/ flash-attn3"


def test_without_scripts_the_page_explains_its_placeholder(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, _ = opened(browser, f"{host}wheels/fa3/", java_script_enabled=False)
        text = page.inner_text("body")
        assert not page.is_visible("#selector")
    assert "pip install --index-url INDEX_URL/stable/simple/ flash-attn3" in text
    assert "INDEX_URL stands for the address of this page" in text
    assert "built, not yet run on this GPU (same source passed on NVIDIA H200)" in text
    assert "nobody has run it on Windows <yet>" in text


@pytest.mark.parametrize("clipboard", [True, False])
def test_copy_button_copies_the_line_and_says_so(browser: Any, parent: Path, clipboard: bool) -> None:
    """Browsers keep the clipboard's interface from plain http at any address but this machine's own."""
    with served(parent) as host:
        page = browser.new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
        if not clipboard:
            page.add_init_script(
                "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined })"
            )
        page.goto(f"{host}wheels/fa3/")
        page.click("#install .copy:has([data-command=uv]) button")
        page.wait_for_selector("#install .copy:has([data-command=uv]) button:text-is('Copied')")
        assert page.inner_text("[role=status].unseen") == "Copied"
        reader = browser.contexts[-1].new_page()
        reader.goto(f"{host}wheels/fa3/")
        copied = reader.evaluate("navigator.clipboard.readText()")
        assert copied == f"uv pip install --index {host}wheels/fa3/stable/simple/ flash-attn3"


def choose(page: Any, **cell: str) -> None:
    for axis, value in cell.items():
        page.select_option(f"#selector [name={axis}]", value)


def test_the_selector_answers_with_the_line_the_proof_or_the_reason(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, messages = opened(browser, f"{host}wheels/fa3/")
        first = page.inner_text("#verdict")
        assert first == (
            "Served; validated on NVIDIA H200 with torch 2.9.1+cu130. "
            "On this GPU: forward: exact sm_90 kernels; combine: portable kernels."
        )
        assert page.eval_on_selector("tr.chosen td", "node => node.textContent") == "2.9, 2.15"

        choose(page, torch="2.15")
        unproven = "This torch and CUDA run the same file; no validation used them."
        assert page.inner_text("#verdict") == first.replace(" On this", f" {unproven} On this")
        recipe = page.text_content("[data-recipe=dockerfile]")
        assert 'RUN uv pip install --torch-backend cu130 "torch==2.15.*"' in recipe
        assert "uv venv --python 3.13 /venv" in recipe

        choose(page, sm="80")
        assert page.inner_text("#verdict") == (
            "Served; built, not yet run on this GPU (same source passed on NVIDIA H200). "
            "On this GPU: forward, combine: portable kernels."
        )

        choose(page, python="3.10")
        assert page.inner_text("#verdict") == "Not built: torch has no such wheel."
        assert not page.is_visible("[data-command=pip]")
        choose(page, platform="win_amd64")
        assert page.inner_text("#verdict") == "Not built: nobody has run it on Windows <yet>."
        choose(page, platform="linux_x86_64", torch="2.9")
        assert page.inner_text("#verdict") == "Not built: no wheel of this release is for it."
        choose(page, python="3.11", sm="90")
        assert page.inner_text("#verdict") == first
        assert page.is_visible("[data-command=pip]")
    assert messages == []


def test_the_selector_says_where_a_platform_is_emulated(browser: Any, tmp_path: Path) -> None:
    """No reader takes a validation elsewhere for one of his platform."""
    block = SUPPORT.cells[0].model_copy(update={"platform": ("linux_aarch64",)})
    arm = SUPPORT.model_copy(update={"cells": (block,)})
    wheels = (
        manifest_wheel("0.1.0", channel="stable", proofs=(VALIDATED,), pack="1" * 64),
        emulated_wheel("0.1.0", pack="1" * 64, support=arm.key),
    )
    manifest = Manifest(wheels=wheels, supports={SUPPORT.key: SUPPORT, arm.key: arm})
    page, messages = opened(browser, (write_pages(tmp_path, manifest) / "index.html").as_uri())
    assert page.input_value("#selector [name=platform]") == "linux_x86_64"
    assert page.inner_text("#verdict").startswith("Served; validated on NVIDIA H200")
    assert page.is_visible("#verdict.proven")
    choose(page, platform="linux_aarch64")
    assert page.inner_text("#verdict") == (
        "Served; emulated: no linux_aarch64 machine with a GPU has validated this file; its kernels are, "
        "byte for byte, those of the wheel for linux_x86_64, which ran on NVIDIA H200, and its host part "
        "passed 130 checks under qemu-aarch64 version 7.2.22. On this GPU: forward: exact sm_90 kernels; "
        "combine: portable kernels; in the wheel for another platform, validated on NVIDIA H200 with torch "
        "2.9.1+cu130."
    )
    assert not page.is_visible("#verdict.proven")
    assert page.is_visible("[data-command=pip]")
    assert messages == []


def test_a_selection_can_be_shared_as_an_address(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, _ = opened(browser, f"{host}wheels/fa3/")
        choose(page, torch="2.15", sm="newer", python="3.11")
        assert page.url == f"{host}wheels/fa3/#linux_x86_64-py311-torch2.15-cu130-smnewer"
        assert page.text_content("[data-command=pip]").split()[-2] == f"{host}wheels/fa3/stable/simple/"
        chosen, again = page.inner_text("#verdict"), page.url
        page, messages = opened(browser, again)
        assert page.inner_text("#verdict") == chosen
        page.evaluate("location.hash = '#win_amd64-py310-torch2.15-cu130-sm80'")
        page.wait_for_selector("#verdict:text('Windows')")
        for fragment in ("#not-built", "#linux_x86_64-py399-torch9.9-cu999-sm999", "#%00-py"):
            page, messages = opened(browser, f"{host}wheels/fa3/{fragment}")
            assert page.inner_text("#verdict").startswith("Served; validated on NVIDIA H200")
            assert messages == []


def test_the_keyboard_alone_selects_and_copies(browser: Any, parent: Path) -> None:
    with served(parent) as host:
        page, _ = opened(browser, f"{host}wheels/fa3/", permissions=["clipboard-read", "clipboard-write"])
        while page.evaluate("document.activeElement.name") != "torch":
            page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        assert page.input_value("#selector [name=torch]") == "2.15"
        assert page.url.endswith("-torch2.15-cu130-sm90")
        while page.evaluate("document.activeElement.tagName") != "BUTTON":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("button:text-is('Copied')")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == f"pip install --index-url {host}wheels/fa3/stable/simple/ flash-attn3"


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
