"""The version of this distribution: the interface that it provides, and behind a plus our own release.

``3.0.0+0.1.0`` meets ``flash-attn-3==3.0.0`` and ``>=3.0.0``, which compare no local version, and is above
every beta. Among equal interfaces installers take the newest release, before a plain ``3.0.0``. A
``3.0.0.post1`` would not meet ``==3.0.0``.
"""

from __future__ import annotations

import re

INTERFACE = "3.0.0"
_RELEASE = re.compile(r"\d+(\.\d+)*(\+[a-z][a-z0-9]*(\.[a-z0-9]+)*)?")


def drop_in_version(release: str) -> str:
    """Return the version of the distribution that belongs to a release of flash-attn3.

    Raises:
        ValueError: it is a pre-, post- or development release, which would not sort as a local version.
    """
    if not _RELEASE.fullmatch(release):
        raise ValueError(
            "version must be numbers, and at most a local version that begins with a letter, as 0.1.0 or "
            f"0.1.0+ours, for it to sort behind {INTERFACE}+; it is {release}"
        )
    return f"{INTERFACE}+{release.replace('+', '.')}"
