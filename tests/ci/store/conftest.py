"""Fixtures: a server that speaks S3, and an empty store of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.store.folder import FolderStore
from ci.store.s3 import S3Store
from tests.s3_kit import CREDENTIALS, new_bucket, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.store.store import Store


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with s3_server() as address:
            yield address


@pytest.fixture
def bucket(endpoint: str) -> S3Store:
    """A site below a prefix of an empty bucket that everybody can read."""
    return S3Store.connect(f"s3://{new_bucket(endpoint)}/wheels/fa3", endpoint_url=endpoint)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "site")
    bucket: S3Store = request.getfixturevalue("bucket")
    return bucket
