"""Renders the templates of the pages that people read."""

from __future__ import annotations

import base64
import hashlib
import re
import statistics
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from index_site.cells import platform_title
from index_site.hosting import file_href
from index_site.projects import PROJECT
from index_site.speeds import ratios_of
from matrix.block import AXES

if TYPE_CHECKING:
    from index_site.manifest import Manifest
    from index_site.proofs import Proof, ReportSummary
    from matrix.block import Block
    from matrix.cell import Cell

# In place of an unknown address. The page's script puts in the address from which it was loaded.
UNKNOWN_BASE = "INDEX_URL/"
_HYPHENATED = re.compile(r"([\w-]*-[\w-]*)")
_SLOT = re.compile(r"\{(python|torch|cuda)\}")


def rendered(template: str, manifest: Manifest, *, root: str = "./", **context: object) -> bytes:
    """Render a page.

    Args:
        template: its file name.
        manifest: of the site.
        root: the relative path from the page to the root of the site.
        context: the names that the template reads.
    """
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            manifest=manifest,
            root=root,
            project=PROJECT,
            style=style,
            script=script,
            policy=f"default-src 'none'; style-src '{_source_hash(style)}'; "
            f"script-src '{_source_hash(script)}'; img-src data:; base-uri 'none'; form-action 'none'",
        )
        .encode()
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("index_site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        based=_based,
        href=file_href,
        platform=platform_title,
        size=_size,
        slotted=_slotted,
        speed=_speed,
        values=_values,
        voucher=_voucher,
    )
    return environment


@cache
def _asset(name: str) -> Markup:
    text = (resources.files("index_site") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 (a file of this package)


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _based(text: str, base: str) -> Markup:
    """Mark the address of the site in a text, so that the page's script can replace it."""
    marked = Markup('<span class="base">{}</span>').format(base)
    return marked.join(_unbroken(part) for part in text.split(base))


def _slotted(text: str, base: str, cell: Cell) -> Markup:
    """Mark the address of the site, and the values of a cell, which the page's script replaces."""
    parts = _SLOT.split(text)
    marked = [
        Markup('<span data-slot="{}">{}</span>').format(part, getattr(cell, part))
        if n % 2
        else _based(part, base)
        for n, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _values(block: Block) -> Markup:
    """Return the values of a block as attributes of an element; axes without values have none."""
    listed = {axis: " ".join(getattr(block, axis)) for axis in AXES}
    return Markup("").join(Markup(' data-{}="{}"').format(*item) for item in listed.items() if item[1])


def _unbroken(text: str) -> Markup:
    """Prevent line breaks inside ``--index-url`` or ``flash-attn3``."""
    pieces = _HYPHENATED.split(text)
    words = [
        Markup('<span class="word">{}</span>').format(piece) if n % 2 else escape(piece)
        for n, piece in enumerate(pieces)
    ]
    return Markup("").join(words)


def _size(count: int) -> str:
    """``12345678`` -> ``12.3 MB``, in decimal units as pip and uv print them."""
    value, unit = count / 1000, "kB"
    if value >= 1000:
        value, unit = value / 1000, "MB"
    return f"{value:.1f} {unit}"


def _voucher(report: ReportSummary) -> str:
    """Return who vouches for a report."""
    match report.voucher:
        case "tree":
            return "kept in the source tree"
        case "signature":
            return f"signed by {report.signed_by}"
        case "site":
            return "not signed; this site vouches for it"
        case "":
            return "not signed"


def _speed(proof: Proof) -> Markup:
    """Return the geometric mean of the ratios in the races of the forward, and their range; empty if none."""
    ratios = list(ratios_of(proof, "forward").values())
    if not ratios:
        return Markup("")
    mean, low, high = statistics.geometric_mean(ratios), min(ratios), max(ratios)
    count = f"{len(ratios)} shape{'s' if len(ratios) > 1 else ''}"
    times = "\N{MULTIPLICATION SIGN}"
    spread = f"({low:.2f}\N{EN DASH}{high:.2f}, geometric mean of {count})"
    return Markup("{:.2f} {} <small>{}</small>").format(mean, times, spread)
