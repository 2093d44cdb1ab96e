"""The version of a wheel: the release's, or that of a trial, a wheel of something else under another name.

A published version never changes. A wheel of a few kernels, or of another toolkit than the released one,
would take the name from the right wheel, so it has a local version: ``0.1.0+trial.k1f0c9a2e``.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.table import VARIANTS, Variant, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RELEASE = "0.1.0"
"""The version of the next release."""
PREBUILT = "FLASH_ATTN3_PREBUILT"
"""The variable that names a payload to package instead of compiling one."""
KERNELS = "FLASH_ATTN3_KERNELS"
"""The variable with patterns of the only kernels to compile, separated by spaces."""
_TRIAL = f"{RELEASE}+trial"


def version_of(variants: Sequence[Variant], toolkit: str | None = None) -> str:
    """Return the version of a wheel of these kernels.

    Args:
        variants: the kernels; all of the table make a release.
        toolkit: its name, such as ``13.0``, if it is not the released one.
    """
    parts = [] if toolkit is None else [f"cuda{toolkit}"]
    names = sorted(variant.name for variant in variants)
    if names != sorted(variant.name for variant in VARIANTS):
        # A letter first: a part of digits alone is a number, which loses its leading zeros.
        parts.append(f"k{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}")
    return ".".join([_TRIAL, *parts]) if parts else RELEASE


def is_trial(version: str) -> bool:
    """Return whether a version is that of a trial of any release."""
    return "+trial." in version


def requested_version(environment: Mapping[str, str] = os.environ) -> str:
    """Return the version of the wheel that the build hook makes in this environment.

    Raises:
        UnknownVariantError: a pattern of ``FLASH_ATTN3_KERNELS`` matches no kernel.
    """
    if prebuilt := environment.get(PREBUILT):
        document = json.loads((Path(prebuilt) / "build.json").read_text(encoding="utf-8"))
        return str(document["version"])
    return version_of(select(environment.get(KERNELS, "").split()))
