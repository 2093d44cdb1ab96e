"""The metadata hook: this distribution has the version of flash-attn3 and requires exactly that version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_TREE = Path(__file__).parents[1]


class CompatMetadataHook(MetadataHookInterface):
    """Fills in the fields that ``dynamic`` names."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the version and the one requirement."""
        sys.path.insert(0, str(_TREE))
        from kernels.build.version import RELEASE  # noqa: PLC0415 (found through the path above)

        metadata["version"] = RELEASE
        metadata["dependencies"] = [f"flash-attn3=={RELEASE}"]
