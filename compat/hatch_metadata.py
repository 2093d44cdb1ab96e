"""The metadata hook: this distribution has the version of flash-attn3 and requires exactly that version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TREE = Path(__file__).parents[1] / "pyproject.toml"


class CompatMetadataHook(MetadataHookInterface):
    """Fills in the fields that ``dynamic`` names."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the version and the one requirement."""
        project = tomllib.loads(_TREE.read_text(encoding="utf-8"))["project"]
        metadata["version"] = project["version"]
        metadata["dependencies"] = [f"{project['name']}=={project['version']}"]
