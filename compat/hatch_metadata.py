"""The metadata hook: the version names the interface and the release of flash-attn3 that is required."""

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
        from ci.project import compat_version  # noqa: PLC0415 (found through the path above)
        from kernels.build.version import RELEASE  # noqa: PLC0415

        metadata["version"] = compat_version(RELEASE)
        metadata["dependencies"] = [f"flash-attn3=={RELEASE}"]
