"""Pages as a release has them, and a folder that holds them, for the tests of the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.project import ROOT
from ci.proof.evidence import Validation, read_archive
from ci.stages.coverage import exclusions, support_by_tag
from index_site.manifest import Manifest, dump_manifest, sort_wheels
from index_site.pages import render
from kernels.table import VARIANTS
from matrix.model import read_matrix
from matrix.planner import plan
from tests.site_kit import emulated_wheel, manifest_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from index_site.manifest import Wheel
    from index_site.proofs import Proof

(KEPT,) = (
    found
    for found in read_archive(ROOT / "validation", print)
    if isinstance(found, Validation) and found.report.passed
)
"""The validation report that the tree keeps."""
REPORTED: Proof = KEPT.proof([], 1).model_copy(update={"gap": ""})
"""Its summary, as of a wheel without kernels of its own."""


def release_manifest(*, candidates: int = 1) -> Manifest:
    """The matrix and the kept report of this tree; stable releases, the newest on two platforms.

    The wheel for the second platform is emulated, with the kernels of the first.
    """
    matrix = read_matrix()
    supports = support_by_tag(matrix, plan(matrix))
    support, arm = supports["manylinux_2_17_x86_64"], supports["manylinux_2_28_aarch64"]
    kernels = tuple(sorted(variant.name for variant in VARIANTS))

    def wheel(version: str, **fields: Any) -> Wheel:
        return with_kernels(manifest_wheel(version, support=support.key, **fields))

    def with_kernels(listed: Wheel) -> Wheel:
        assert listed.build is not None
        build = listed.build.model_copy(update={"toolkits": {"12.8": kernels}, "pack_sha256": "1" * 64})
        return listed.model_copy(update={"build": build})

    proven: dict[str, Any] = {"channel": "stable", "proofs": (REPORTED,)}
    wheels = [wheel(f"0.{minor}.0", **proven) for minor in (1, 2, 3)]
    wheels.append(with_kernels(emulated_wheel("0.3.0", support=arm.key)))
    wheels += [wheel(f"0.4.0rc{number}", proofs=(REPORTED,)) for number in range(candidates)]
    wheels.append(wheel("0.2.1", **proven, yanked="it was built from the wrong sources"))
    return Manifest(
        wheels=sort_wheels(wheels),
        supports={support.key: support, arm.key: arm},
        exclusions=exclusions(matrix),
        cadence_days=matrix.release.cadence_days,
    )


def write_pages(folder: Path, manifest: Manifest) -> Path:
    """Write the pages of a site and its manifest."""
    for path, page in {**render(manifest), "manifest.json": dump_manifest(manifest)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(page)
    return folder
