"""The errors of this package."""

from __future__ import annotations


class SiteError(Exception):
    """Base of the errors; ``exit_code`` is that of a command which one ends."""

    exit_code = 1


class CorruptManifest(SiteError):
    """The manifest is missing, truncated, altered or of another schema, or contradicts itself or the site."""

    exit_code = 28


class OtherSchema(CorruptManifest):
    """The manifest is whole, but another version of this tree wrote it."""
