"""The metadata hook: the version names the interface and the release of flash-attn3 that is required."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_TREE = Path(__file__).parents[1]
# By its path: the package itself imports torch, which a build does not have.
_drop_in_version = runpy.run_path(str(Path(__file__).parent / "flash_attn_3" / "_version.py"))[
    "drop_in_version"
]


class CompatMetadataHook(MetadataHookInterface):
    """Fills in the fields that ``dynamic`` names."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the version and the one requirement."""
        sys.path.insert(0, str(_TREE))
        from kernels.build.version import RELEASE  # noqa: PLC0415 (found through the path above)

        metadata["version"] = _drop_in_version(RELEASE)
        metadata["dependencies"] = [f"flash-attn3=={RELEASE}"]
