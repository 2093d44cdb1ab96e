"""The build record of this package: ``build.json``, written when the wheel is built."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).parent / "build.json"


@dataclass(frozen=True)
class Build:
    """The build of this package. The version is defined here alone.

    Attributes:
        targets: operator, SM such as ``90a`` and code (``cubin`` or ``ptx``) of its kernels, each once.
    """

    version: str
    content_digest: str
    platform: str
    targets: tuple[tuple[str, str, str], ...]

    @property
    def release(self) -> str:
        """The version without what a wheel for experiments adds to it: that of its libraries."""
        return self.version.partition("+")[0]


@functools.cache
def read_build() -> Build:
    """Read ``build.json``.

    Raises:
        ImportError: the file is missing or damaged.
    """
    try:
        document = json.loads(_FILE.read_text(encoding="utf-8"))
        targets = {(kernel["op"], kernel["sm"], kernel["code"]) for kernel in document["kernels"]}
        return Build(
            document["version"], document["content_digest"], document["platform"], tuple(sorted(targets))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImportError(
            f"flash_attn3: {_FILE} is no build record ({error!r}); reinstall the package"
        ) from error
