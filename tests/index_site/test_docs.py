"""The documentation pages: their links, ids and code hold, and what they name exists."""

from __future__ import annotations

import ast
import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

import pytest

from ci.cli.app import cli
from ci.project import ROOT
from ci.proof.report import Report
from index_site.docs import DOCS
from index_site.pages import render
from tests.site_kit import BUILD, manifest_wheel, site_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = render(site_manifest(manifest_wheel("0.1.0", channel="stable")))
SOURCES = {name: (ROOT / "index_site" / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in DOCS}


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.hrefs += [value for name, value in attrs if name == "href" and value and value != "data:,"]


def test_every_file_is_a_page_that_every_page_links_to() -> None:
    assert {path.stem for path in (ROOT / "index_site" / "docs").iterdir()} == set(DOCS)
    for path in ("index.html", *(f"docs/{name}.html" for name in DOCS)):
        found = {urljoin(path, href) for href in Reader(PAGES[path].decode()).hrefs}
        assert {"index.html", *(f"docs/{name}.html" for name in DOCS)} <= {
            urldefrag(href).url for href in found
        }


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_to_pages_and_to_ids_that_are_there(name: str) -> None:
    path = f"docs/{name}.html"
    page = Reader(PAGES[path].decode())
    assert len(set(page.ids)) == len(page.ids)
    for href in page.hrefs:
        target, fragment = urldefrag(urljoin(path, href))
        assert target in {*PAGES, "manifest.json"}, href
        assert not fragment or fragment in Reader(PAGES[target].decode()).ids, href


@pytest.mark.parametrize("name", DOCS)
def test_a_page_has_one_title_its_policy_and_no_markup_of_its_source(name: str) -> None:
    page = PAGES[f"docs/{name}.html"].decode()
    assert page.count("<h1 ") == 1
    assert "default-src &#39;none&#39;" in page
    assert SOURCES[name].splitlines()[0].removeprefix("# ") in unescape(page)
    text = unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", "", page, flags=re.DOTALL))
    assert not re.search(r"\]\(|\*\*|^#+ |```|\{\{", text, re.MULTILINE)


def blocks(language: str) -> Iterator[str]:
    for source in SOURCES.values():
        yield from re.findall(rf"^```{language}\n(.*?)^```", source, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_are_python_and_import_what_the_package_exports() -> None:
    exported = ast.parse((ROOT / "flash_attn3" / "__init__.py").read_text(encoding="utf-8"))
    names = next(
        ast.literal_eval(node.value)
        for node in exported.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    imported = [
        alias.name
        for block in blocks("python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module == "flash_attn3"
        for alias in node.names
    ]
    assert imported
    assert set(imported) <= set(names)


def test_the_farm_has_the_commands_and_the_report_the_fields() -> None:
    commands = set(re.findall(r"\./scripts/farm ([a-z]+)", "".join(SOURCES.values())))
    assert commands
    assert commands <= set(cli.commands)
    table = SOURCES["validation"].partition("## The report")[2].partition("## ")[0]
    fields = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`(\w+)`", row.partition("| ")[2].partition(" |")[0])
    }
    assert len(fields) > 8
    assert fields <= set(Report.model_fields)


def test_the_errors_of_the_package_are_quoted_as_it_words_them() -> None:
    """Of each quoted message, the words between what differs from one machine to the next."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("flash_attn3", "compat", "kernels/host")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".cpp"}
    )
    for words in (
        "the CUDA driver was not found",
        "the CUDA driver supports CUDA ",
        "or newer is needed",
        " was built without CUDA",
        " has no kernel in flash_attn3 yet",
        "; this build holds ",
    ):
        assert words in sources
        assert words.strip("; ") in SOURCES["troubleshooting"]


@pytest.mark.parametrize(
    "message",
    [
        "undefined symbol",
        "GLIBC_2.",
        "no kernel image is available for execution on the device",
        "libcudart.so.12",
        "has inconsistent version",
        "flash-attn-3` is in the way",
        "No matching distribution found for torch",
    ],
)
def test_the_errors_that_users_report_have_a_heading(message: str) -> None:
    headings = [line for line in SOURCES["troubleshooting"].splitlines() if line.startswith("## ")]
    assert any(message in heading for heading in headings)


def arguments(file: str, function: str) -> list[str]:
    """The arguments of a function of the package, which a source tree cannot import."""
    tree = ast.parse((ROOT / "flash_attn3" / file).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return [argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)]


def test_migrating_names_the_arguments_that_are_added() -> None:
    dense = arguments("attention.py", "flash_attn_func")
    varlen = arguments("varlen.py", "flash_attn_varlen_func")
    listed = SOURCES["migrating"].partition("### What differs")[2].splitlines()[2]
    named = set(re.findall(r"`(\w+)`", listed)) - {"flash_attn_varlen_func"}
    assert named == {
        name for names in (dense, varlen) for name in names[names.index("return_attn_probs") + 1 :]
    }


def test_what_is_missing_is_that_of_the_offered_release() -> None:
    assert "no kernel for: the backward pass, so no training; decoding with a KV cache; FP8." in (
        PAGES["docs/migrating.html"].decode()
    )
    wheel = manifest_wheel("0.1.0", channel="stable")
    assert wheel.build is not None
    operators = dict.fromkeys(("fwd", "bwd", "decode"), wheel.build.operators["fwd"])
    whole = wheel.build.model_copy(update={"operators": operators})
    page = render(site_manifest(wheel.model_copy(update={"build": whole})))["docs/migrating.html"].decode()
    assert "no kernel for: FP8." in page
    assert BUILD["version"] not in page
