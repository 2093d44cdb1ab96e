from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kernels.build.version import RELEASE, is_trial, requested_version, version_of
from kernels.errors import UnknownVariantError
from kernels.table import VARIANTS

if TYPE_CHECKING:
    from pathlib import Path

    from kernels.table import Variant


def test_all_kernels_of_the_released_toolkit_are_the_release():
    assert version_of(VARIANTS) == version_of(VARIANTS[::-1]) == requested_version({}) == RELEASE
    assert not is_trial(RELEASE)


@given(st.lists(st.sampled_from(VARIANTS), unique=True, max_size=len(VARIANTS) - 1))
def test_a_trial_cannot_take_the_name_of_the_release(few: list[Variant]):
    """Its version is normal, newer than the release's, and satisfies what requires the release."""
    version = version_of(few)
    assert is_trial(version)
    assert str(Version(version)) == version
    assert Version(version) > Version(RELEASE)
    assert version in SpecifierSet(f"=={RELEASE}")
    assert version == version_of(few[::-1])


def test_trials_of_other_kernels_and_toolkits_have_other_versions():
    toolkits = (None, "12.6", "13.0")
    versions = {
        version_of(few, toolkit) for few in (VARIANTS[:1], VARIANTS[1:], VARIANTS) for toolkit in toolkits
    }
    assert len(versions) == 9
    assert [version for version in versions if not is_trial(version)] == [RELEASE]
    assert all(str(Version(version)) == version for version in versions)


def test_the_build_hook_asks_for_the_version_of_its_kernels(tmp_path: Path):
    name = VARIANTS[0].name
    assert requested_version({"FLASH_ATTN3_KERNELS": name}) == version_of(VARIANTS[:1])
    (tmp_path / "build.json").write_text(json.dumps({"version": "7.0"}))
    prebuilt = {"FLASH_ATTN3_PREBUILT": str(tmp_path), "FLASH_ATTN3_KERNELS": name}
    assert requested_version(prebuilt) == "7.0"
    with pytest.raises(UnknownVariantError, match="'nothing', which matches no variant"):
        requested_version({"FLASH_ATTN3_KERNELS": "nothing"})
