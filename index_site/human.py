"""The pages that people read: install commands, what they serve, and the proofs of every wheel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_site.cells import block_words, cell_rows
from index_site.feed import next_build
from index_site.gpus import gpu_rows, operator_title
from index_site.releases import current_candidates, has_compat, offered_release, stable_release
from index_site.rendering import UNKNOWN_BASE, rendered
from index_site.selector import selector
from index_site.snippets import Recipe, Snippet, compat_snippet, recipes, snippets
from index_site.speed_section import gpu_speeds

if TYPE_CHECKING:
    from index_site.manifest import Channel, Manifest, OperatorBuild, Support, Wheel

_SOUGHT = {"bwd": "the backward pass, so no training", "decode": "decoding with a KV cache"}
"""Operators that users look for: operator -> words."""


@dataclass(frozen=True)
class Install:
    """The install section: one release of one channel."""

    channel: Channel
    version: str
    snippets: tuple[Snippet, ...]
    recipes: tuple[Recipe, ...]
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
    proofs = [proof for wheel in offered for proof in wheel.proofs]
    return {
        "wheels.html": rendered("wheels.html", manifest, wheels=newest_first),
        "index.html": rendered(
            "index.html",
            manifest,
            install=_install(manifest, offered),
            offered=offered,
            selector=selector(supports, manifest.exclusions, proofs),
            gpus=gpu_rows(gpus.values(), proofs),
            speeds=gpu_speeds(manifest, offered),
            cells=cell_rows(supports),
            operators=_operators(offered),
            missing=_missing(offered),
            torch=next((need for wheel in offered for need in wheel.requires_dist), ""),
            stable=stable,
            candidates=current_candidates(manifest, stable),
            excluded=[(item.cells, block_words(item.cells), item.reason) for item in manifest.exclusions],
            next_build=next_build(manifest),
            total=len(newest_first),
            trusts_unsigned=any(p.voucher == "site" for wheel in manifest.wheels for p in wheel.proofs),
        ),
    }


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
    ways = snippets(base, channel, release)
    return Install(channel, release[0].version, ways, recipes(base, channel, release), compat)
