"""Fixtures: a server that speaks S3, and an empty store of each kind."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.store.folder import FolderStore
from ci.store.s3 import S3Store
from tests.s3_kit import CREDENTIALS, Faults, faulty_proxy, new_bucket, s3_server

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


@pytest.fixture(scope="session")
def whole_bucket(endpoint: str) -> S3Store:
    """A bucket that everybody can read."""
    client = S3Store.connect("s3://none", endpoint_url=endpoint).client
    return S3Store(new_bucket(client), "", client)


@pytest.fixture
def bucket(whole_bucket: S3Store) -> S3Store:
    """A new site below a prefix of the bucket."""
    return replace(whole_bucket, prefix=f"{uuid.uuid4().hex[:12]}/fa3/")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "site")
    bucket: S3Store = request.getfixturevalue("bucket")
    return bucket


@pytest.fixture(scope="session")
def faulty_endpoint(endpoint: str) -> Iterator[tuple[S3Store, Faults]]:
    """The bucket through a proxy with faults; a request has half a second and two attempts."""
    faults = Faults()
    with faulty_proxy(endpoint, faults) as address:
        yield S3Store.connect("s3://none", endpoint_url=address, timeout_s=0.5, attempts=2), faults
