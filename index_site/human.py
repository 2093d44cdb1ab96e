"""The pages that people read: install commands, what they serve, and the proofs of every wheel."""

from __future__ import annotations

import base64
import hashlib
import re
import statistics
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from index_site.cells import block_words, cell_rows
from index_site.gpus import gpu_rows, operator_title
from index_site.hosting import file_href
from index_site.projects import PROJECT
from index_site.releases import current_candidates, has_compat, offered_release, stable_release
from index_site.snippets import Snippet, compat_snippet, snippets

if TYPE_CHECKING:
    from index_site.manifest import Channel, Manifest, OperatorBuild, Proof, Support, Wheel

# In place of an unknown address. The page's script puts in the address from which it was loaded.
UNKNOWN_BASE = "INDEX_URL/"
_SOUGHT = {"bwd": "the backward pass, so no training", "decode": "decoding with a KV cache"}
"""Operators that users look for: operator -> words."""
_HYPHENATED = re.compile(r"([\w-]*-[\w-]*)")


@dataclass(frozen=True)
class Install:
    """The install section: one release of one channel."""

    channel: Channel
    version: str
    snippets: tuple[Snippet, ...]
    compat: Snippet | None


def human_pages(manifest: Manifest) -> dict[str, bytes]:
    """Return ``wheels.html``, which lists every wheel, and ``index.html``.

    Both are complete without their script. They load nothing; a content security policy enforces that.
    """
    newest_first = manifest.shown[::-1]
    stable = stable_release(manifest)
    offered = stable or offered_release(manifest)
    supports = _supports(manifest, offered)
    gpus = {gpu.sm: gpu for support in supports for gpu in support.gpus}
    pages = {
        "wheels.html": _render("wheels.html", manifest, wheels=newest_first),
        "index.html": _render(
            "index.html",
            manifest,
            install=_install(manifest, offered),
            offered=offered,
            gpus=gpu_rows(gpus.values(), [proof for wheel in offered for proof in wheel.proofs]),
            cells=cell_rows(supports),
            operators=_operators(offered),
            missing=_missing(offered),
            torch=next((need for wheel in offered for need in wheel.requires_dist), ""),
            stable=stable,
            candidates=current_candidates(manifest, stable),
            excluded=[(block_words(item.cells), item.reason) for item in manifest.exclusions],
            total=len(newest_first),
            trusts_unsigned=any(p.voucher == "site" for wheel in manifest.wheels for p in wheel.proofs),
        ),
    }
    return {path: page.encode() for path, page in pages.items()}


def _supports(manifest: Manifest, release: tuple[Wheel, ...]) -> list[Support]:
    found = [manifest.support_of(wheel) for wheel in release]
    return [support for support in found if support is not None]


def _builds(release: tuple[Wheel, ...]) -> dict[str, OperatorBuild]:
    """Return the kernels of each operator. The wheels of a release hold the same ones."""
    return {op: build for wheel in release if wheel.build for op, build in wheel.build.operators.items()}


def _operators(release: tuple[Wheel, ...]) -> list[tuple[str, str]]:
    """Return what each operator takes: (title, words)."""
    return [(operator_title(op), _takes(build)) for op, build in _builds(release).items()]


def _missing(release: tuple[Wheel, ...]) -> list[str]:
    """Return what users of FlashAttention-3 may look for and the wheels of a release cannot do."""
    builds = _builds(release)
    dtypes = {dtype for build in builds.values() for dtype in build.dtypes}
    lacking = [words for op, words in _SOUGHT.items() if op not in builds]
    return lacking + ([] if any("e4m3" in dtype for dtype in dtypes) else ["FP8"])


def _takes(build: OperatorBuild) -> str:
    parts = [", ".join(build.dtypes)]
    if build.head_dims:
        parts.append(f"any head dimension up to {max(build.head_dims)}")
        parts.append(f"masks {', '.join(build.masks)}")
    return "; ".join(parts)


def _install(manifest: Manifest, release: tuple[Wheel, ...]) -> Install | None:
    if not release:
        return None
    channel = release[0].channel
    base = manifest.base_url or UNKNOWN_BASE
    compat = compat_snippet(base, channel) if has_compat(manifest, channel, release) else None
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
    filters = {"based": _based, "href": file_href, "size": _size, "speed": _speed, "voucher": _voucher}
    environment.filters.update(filters)
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


def _voucher(proof: Proof) -> str:
    """Return who vouches for a report."""
    match proof.voucher:
        case "tree":
            return "kept in the source tree"
        case "signature":
            return f"signed by {proof.signed_by}"
        case "site":
            return "not signed; this site vouches for it"
        case "":
            return "not signed"


def _speed(proof: Proof) -> str:
    """Return the geometric mean of the ratios of the races, and their range."""
    ratios = list(proof.races.values())
    mean, low, high = statistics.geometric_mean(ratios), min(ratios), max(ratios)
    count = f"{len(ratios)} shape{'s' if len(ratios) > 1 else ''}"
    return f"{mean:.2f} \N{MULTIPLICATION SIGN} ({low:.2f}\N{EN DASH}{high:.2f}, geometric mean of {count})"
