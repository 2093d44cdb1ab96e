"""The pages that people read: install commands, what they serve, and the proofs of every wheel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from index_site.cells import block_words, cell_rows
from index_site.degrees import kernel_proofs, platform_rows
from index_site.docs import DOCS
from index_site.doctor import oldest_driver
from index_site.feed import next_build
from index_site.gpus import gpu_rows
from index_site.hosting import file_href
from index_site.operators import missing_operators, operator_inputs
from index_site.releases import current_candidates, has_compat
from index_site.rendering import UNKNOWN_BASE, rendered
from index_site.selector import selector
from index_site.snippets import Recipe, Snippet, compat_snippet, recipes, snippets
from index_site.speed_section import gpu_speeds

if TYPE_CHECKING:
    from index_site.manifest import Channel, Manifest, Support, Wheel


@dataclass(frozen=True)
class Install:
    """The install section: one release of one channel."""

    channel: Channel
    version: str
    snippets: tuple[Snippet, ...]
    recipes: tuple[Recipe, ...]
    compat: Snippet | None


def human_pages(manifest: Manifest, offered: tuple[Wheel, ...]) -> dict[str, bytes]:
    """Return ``wheels.html``, which lists every wheel, and ``index.html``.

    Both are complete without their script. They load nothing; a content security policy enforces that.

    Args:
        manifest: of the site.
        offered: the release that the page offers.
    """
    newest_first = manifest.shown[::-1]
    stable = offered if offered and offered[0].channel == "stable" else ()
    supports = _supports(manifest, offered)
    gpus = {gpu.sm: gpu for support in supports for gpu in support.gpus}
    proofs = kernel_proofs(manifest, offered)
    return {
        "wheels.html": rendered("wheels.html", manifest, rows=_rows(newest_first)),
        "index.html": rendered(
            "index.html",
            manifest,
            install=_install(manifest, offered),
            offered=offered,
            selector=selector(supports, manifest.exclusions, proofs),
            gpus=gpu_rows(gpus.values(), proofs),
            platforms=platform_rows(manifest, offered),
            speeds=gpu_speeds(manifest, offered),
            cells=cell_rows(supports),
            operators=operator_inputs(offered),
            missing=missing_operators(offered),
            torch=next((need for wheel in offered for need in wheel.requires_dist), ""),
            stable=stable,
            candidates=current_candidates(manifest, stable),
            excluded=[(item.cells, block_words(item.cells), item.reason) for item in manifest.exclusions],
            docs=DOCS,
            next_build=next_build(manifest),
            oldest_driver=oldest_driver(),
            total=len(newest_first),
            trusts_unsigned=any(r.voucher == "site" for wheel in manifest.wheels for r in wheel.reports),
        ),
    }


def _rows(wheels: tuple[Wheel, ...]) -> Markup:
    """Return the list of wheels. A template takes seconds for very many, and escapes each text."""
    return Markup("\n".join(map(_row, wheels)))  # noqa: S704 (escaped below)


def _row(wheel: Wheel) -> str:
    # The manifest's schema allows no special characters in the other texts.
    yanked = "" if wheel.yanked is None else f", yanked: {escape(wheel.yanked)}"
    return (
        f'<p class="row"><a href="{file_href(wheel.filename)}">{wheel.filename}</a> '
        f"<small>{wheel.upload_time[:10]}, {wheel.channel}{yanked}</small><br>"
        f'<code class="sha">{wheel.sha256}</code></p>'
    )


def _supports(manifest: Manifest, release: tuple[Wheel, ...]) -> list[Support]:
    found = [manifest.support_of(wheel) for wheel in release]
    return [support for support in found if support is not None]


def _install(manifest: Manifest, release: tuple[Wheel, ...]) -> Install | None:
    if not release:
        return None
    channel = release[0].channel
    base = manifest.base_url or UNKNOWN_BASE
    compat = compat_snippet(base, channel) if has_compat(manifest, channel, release) else None
    ways = snippets(base, channel, release)
    return Install(channel, release[0].version, ways, recipes(base, channel, release), compat)
