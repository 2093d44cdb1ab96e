"""The documentation pages, from the Markdown files of the folder ``docs``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markupsafe import Markup

from index_site.operators import missing_operators
from index_site.rendering import rendered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from markdown_it.utils import EnvType, OptionsDict

    from index_site.manifest import Manifest, Wheel

DOCS = {
    "quick-start": "Quick start",
    "migrating": "Migrating",
    "pinning": "Pinning",
    "validation": "Validation",
    "farm": "Farm",
    "troubleshooting": "Troubleshooting",
}
"""The pages, and the texts of the links to them."""
_MISSING = "{{ missing }}"


@dataclass(frozen=True)
class Doc:
    """One page: its title and its text as HTML."""

    title: str
    html: Markup


def docs_pages(manifest: Manifest, offered: tuple[Wheel, ...]) -> dict[str, bytes]:
    """Return the documentation pages by path. What the offered release lacks is filled in."""
    missing = "; ".join(missing_operators(offered)) or "nothing that FlashAttention-3 has"
    return {
        f"docs/{name}.html": rendered(
            "doc.html", manifest, root="../", doc=_document(name, missing), docs=DOCS, here=name
        )
        for name in DOCS
    }


@cache
def _document(name: str, missing: str) -> Doc:
    source = (resources.files("index_site") / "docs" / f"{name}.md").read_text(encoding="utf-8")
    parser = _parser()
    tokens = parser.parse(source.replace(_MISSING, missing))
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(content.content))
    html = parser.renderer.render(tokens, parser.options, {})
    return Doc(tokens[1].content, Markup(html))  # noqa: S704 (the parser escapes HTML)


def slug(heading: str) -> str:
    """Return the id of a heading: its words in lower case, joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", heading.lower()))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("fence", _fence)
    return parser


def _fence(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> Markup:
    """Render a block of code in a box, to which the page's script adds a copy button."""
    del self, options, env
    box = Markup('<div class="copy"><pre><code>{}</code></pre></div>\n')
    return box.format(tokens[index].content.strip())
