"""The pages that people read: what to type, what it runs on, and what every wheel was proven on."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from index_site.gpus import GpuRow, gpu_rows
from index_site.machine import file_href
from index_site.releases import PROJECT, current_candidates, has_drop_in, offered_release, stable_release
from index_site.snippets import Snippet, drop_in, snippets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from index_site.manifest import Channel, Manifest, Proof, Wheel

# Stands in the lines to copy until the page knows where it is served; the page then says what to put there.
UNKNOWN_BASE = "INDEX_URL/"
_HYPHENATED = re.compile(r"([\w-]*-[\w-]*)")


@dataclass(frozen=True)
class Install:
    """What the install section offers: one release of one channel."""

    channel: Channel
    version: str
    snippets: tuple[Snippet, ...]
    drop_in: Snippet | None


def human_pages(manifest: Manifest) -> dict[str, bytes]:
    """Return ``wheels.html``, which lists every wheel, and ``index.html``.

    Neither needs a script, another host or a font of its own; a policy in the page forbids them.
    """
    newest_first = manifest.wheels[::-1]
    stable, offered = stable_release(manifest), offered_release(manifest)
    pages = {
        "wheels.html": _render("wheels.html", manifest, wheels=newest_first),
        "index.html": _render(
            "index.html",
            manifest,
            install=_install(manifest, offered),
            offered=offered,
            gpus=_gpus(offered),
            stable=stable,
            candidates=current_candidates(manifest, stable),
            total=len(manifest.wheels),
        ),
    }
    return {path: page.encode() for path, page in pages.items()}


def _gpus(release: tuple[Wheel, ...]) -> tuple[GpuRow, ...]:
    """Return what serves each GPU; the wheels of a release hold the same kernels."""
    sms = {sm.sm: sm for wheel in release if wheel.support for sm in wheel.support.sms}
    return gpu_rows(sms.values(), [proof for wheel in release for proof in wheel.proofs])


def _install(manifest: Manifest, release: tuple[Wheel, ...]) -> Install | None:
    if not release:
        return None
    channel = release[0].channel
    base = manifest.base_url or UNKNOWN_BASE
    compat = drop_in(base, channel) if has_drop_in(manifest, channel, release) else None
    return Install(channel, release[0].version, snippets(base, channel, release), compat)


def _render(template: str, manifest: Manifest, **context: object) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            manifest=manifest,
            project=PROJECT,
            style=style,
            script=script,
            policy=f"default-src 'none'; style-src '{_source_hash(style)}'; "
            f"script-src '{_source_hash(script)}'; img-src data:; base-uri 'none'; form-action 'none'",
        )
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
    filters = {"based": _based, "href": file_href, "size": _size, "union": _union, "speed": _speed}
    environment.filters.update(filters)
    return environment


@cache
def _asset(name: str) -> Markup:
    text = (resources.files("index_site") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 (a file of ours)


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _based(text: str, base: str) -> Markup:
    """Mark the address of the site in a text, so that the page can put the real one in its place."""
    marked = Markup('<span class="base">{}</span>').format(base)
    return marked.join(_unbroken(part) for part in text.split(base))


def _unbroken(text: str) -> Markup:
    """Keep a line from breaking inside ``--index-url`` or ``flash-attn3``."""
    pieces = _HYPHENATED.split(text)
    words = [
        Markup('<span class="word">{}</span>').format(piece) if n % 2 else escape(piece)
        for n, piece in enumerate(pieces)
    ]
    return Markup("").join(words)


def _size(count: int) -> str:
    """``12345678`` -> ``12.3 MB``, in the decimal units that installers show."""
    value, unit = count / 1000, "kB"
    if value >= 1000:
        value, unit = value / 1000, "MB"
    return f"{value:.1f} {unit}"


def _union(wheels: Iterable[Wheel], record: str, field: str) -> list[str]:
    """Collect the values of one field of a record that wheels may have, in the order of first appearance."""
    records = [getattr(wheel, record) for wheel in wheels]
    return list(dict.fromkeys(str(value) for item in records if item for value in getattr(item, field)))


def _speed(proof: Proof) -> str:
    """Say how fast the slowest and the fastest race were."""
    low, high = min(proof.races.values()), max(proof.races.values())
    shown = dict.fromkeys((f"{low:.2f}", f"{high:.2f}"))
    return "\N{EN DASH}".join(shown) + " \N{MULTIPLICATION SIGN}"
