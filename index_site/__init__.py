"""The site: manifest -> the pages that pip and uv read, and the page that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index_site.human import human_pages
from index_site.machine import machine_pages

if TYPE_CHECKING:
    from index_site.manifest import Manifest

__all__ = ["render"]


def render(manifest: Manifest) -> dict[str, bytes]:
    """Return every page of the site by its path: a pure function of the manifest.

    The order is the order in which pages are to be replaced: project pages, then the roots that lead to them.
    """
    return machine_pages(manifest) | human_pages(manifest)
