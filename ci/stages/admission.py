"""Which wheels a site may take at all. An operator can force another one, to the candidate channel only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename

from index_site.projects import COMPAT_PROJECT, PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.check import Check
    from ci.wheel.read import WheelFile

_PROJECTS = (PROJECT, COMPAT_PROJECT)


def find_faults(
    facts: WheelFile, checks: Sequence[Check], names_by_digest: Mapping[str, str]
) -> tuple[str, ...]:
    """Return a sentence for each reason why the site should not take a wheel; empty if it may.

    Args:
        facts: of the wheel.
        checks: of its audit; empty if it was not audited.
        names_by_digest: sha256 -> file name of the other wheels, published or being published.
    """
    return tuple(_faults(facts, checks, names_by_digest))


def _faults(facts: WheelFile, checks: Sequence[Check], names_by_digest: Mapping[str, str]) -> Iterator[str]:
    if facts.project not in _PROJECTS:
        yield f"it is of the project {facts.project}; this index is for {' and '.join(_PROJECTS)}"
    if facts.project == PROJECT and any(tag.endswith("-any") for tag in facts.tags):
        yield f"its tag {', '.join(facts.tags)} is one of pure Python, and its code is native"
    _, _, build_tag, _ = parse_wheel_filename(facts.filename)
    plain = f"{facts.project.replace('-', '_')}-{facts.version}-{facts.filename.rsplit('-', 3)[-3]}"
    if build_tag:
        yield f"its name has the build tag {''.join(map(str, build_tag))}; a rebuild is a new version"
    elif not facts.filename.startswith(f"{plain}-"):
        yield f"its name should start with {plain}: other spellings would list one wheel several times"
    twin = names_by_digest.get(facts.sha256, facts.filename)
    if twin != facts.filename:
        yield f"its bytes are those of {twin}"
    for check in checks:
        if not check.ok:
            yield f"its audit failed: {check.name}: {check.detail}"
