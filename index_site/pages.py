"""All pages of the site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index_site.docs import docs_pages
from index_site.doctor import DOCTOR_NAME, doctor_page
from index_site.feed import FEED_NAME, feed
from index_site.human import human_pages
from index_site.machine import machine_pages
from index_site.releases import offered_release

if TYPE_CHECKING:
    from index_site.manifest import Manifest


def render(manifest: Manifest) -> dict[str, bytes]:
    """Return every page of the site by its path: a pure function of the manifest.

    Pages are to be written in this order: those of projects, then the roots that link to them.
    """
    offered = offered_release(manifest)
    people = docs_pages(manifest, offered) | human_pages(manifest, offered)
    programs = {DOCTOR_NAME: doctor_page(manifest, offered)}
    return machine_pages(manifest) | {FEED_NAME: feed(manifest)} | programs | people
