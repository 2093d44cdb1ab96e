"""A site in a bucket of S3 or of a compatible store, with conditional writes instead of a lock.

Every object carries its sha256 as metadata, so that a reader recognises truncated or altered bytes, and a
publisher the wheel that it stored before.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ci.errors import FarmError, StoreConflict, StoreFailed, UnsafeSite
from ci.files import room_in, sha256_of
from ci.store.store import MARKER, ChangedMeanwhile, Stored
from index_site.hosting import cache_control, content_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_MARKER = f"{MARKER}/marker"
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_.+-]+)*)/?")
_CONNECT_TIMEOUT_S = 10
_NOT_FOUND = 404
_CONFLICT = 409
_PRECONDITION_FAILED = 412


@dataclass(frozen=True)
class S3Store:
    """A site below a prefix of a bucket. A version is an ETag."""

    bucket: str
    prefix: str
    """Empty, or with a final slash."""
    client: Any

    @classmethod
    def connect(
        cls, address: str, *, endpoint_url: str | None = None, timeout_s: float = 60, attempts: int = 5
    ) -> S3Store:
        """Return the store of an address, with the credentials and the region of the environment.

        Args:
            address: ``s3://BUCKET/PREFIX``.
            endpoint_url: of a store that is not Amazon's.
            timeout_s: how long to wait for an answer.
            attempts: how often to send a request that fails for a reason that may pass.

        Raises:
            FarmError: it is not such an address.
            StoreFailed: the configuration of the environment or the endpoint is wrong.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None or {".", ".."} & set(match[2].split("/")):
            raise FarmError(f"site: should be s3://BUCKET/PREFIX or a folder, got {address!r}")
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # Not all compatible stores take the checksums that boto3 adds; put_object below has its own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint_url else None,
        )
        try:
            client = boto3.client("s3", endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise StoreFailed(f"{address}: {error}") from error
        return cls(match[1], f"{match[2].strip('/')}/".lstrip("/"), client)

    @property
    def name(self) -> str:
        """See :class:`ci.store.store.Store`, here and below."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def has_folders(self) -> bool:
        """A bucket answers the address of a folder only if an object has this name, with its final slash."""
        return False

    def at(self, path: str) -> str:
        """Return the address of an object."""
        return f"{self.name}/{path}"

    @contextmanager
    def writing(self, *, create: bool, report: Callable[[str], None]) -> Iterator[Path]:
        """Require a site, and a store that refuses writes whose conditions do not hold."""
        del report  # nobody waits: the second of two writers starts again
        self._require_site(create=create)
        with tempfile.TemporaryDirectory(prefix="publish-") as folder, room_in(Path(folder)):
            yield Path(folder)

    def read(self, path: str) -> Stored | None:
        """Return an object; None if it does not exist."""
        with self._failures(path):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)
            except ClientError as error:
                if _status(error) == _NOT_FOUND:
                    return None
                raise
            data = answer["Body"].read()
        self._require_sha256(path, answer, hashlib.sha256(data).hexdigest())
        return Stored(data, answer["ETag"])

    def version(self, path: str) -> str | None:
        """Return the ETag of an object; None if it does not exist."""
        found = self._head(path)
        return None if found is None else str(found["ETag"])

    def compare(self, path: str, data: bytes) -> tuple[str | None, bool]:
        """Return the ETag of an object, and whether it was stored with the sha256 of these bytes."""
        found = self._head(path)
        if found is None:
            return None, False
        return str(found["ETag"]), found["Metadata"].get("sha256") == hashlib.sha256(data).hexdigest()

    def paths(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all objects but the marker."""
        pages = self.client.get_paginator("list_objects_v2")
        with self._failures(prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for found in page.get("Contents", ()):
                    path = found["Key"].removeprefix(self.prefix)
                    if path != _MARKER:
                        yield path

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """Download an object."""
        with tempfile.TemporaryDirectory(prefix="download-") as folder:
            copy = Path(folder) / path.rpartition("/")[2]
            with self._failures(path), copy.open("wb") as file:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)
                for block in answer["Body"].iter_chunks(1 << 20):
                    file.write(block)
            self._require_sha256(path, answer, sha256_of(copy))
            yield copy

    def put(self, path: str, content: Path | bytes) -> None:
        """Store an immutable object, unless it exists."""
        digest = sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        if self._holds(path, digest):
            return
        opened = content.open("rb") if isinstance(content, Path) else nullcontext(content)
        with opened as body, self._failures(path):
            try:
                self._send(path, body, digest, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) not in {_CONFLICT, _PRECONDITION_FAILED}:
                    raise
            else:
                return
        if not self._holds(path, digest):
            raise StoreConflict(
                f"{self.at(path)}: another publisher stores it at the same time, or the store returns old "
                "versions; run the same command again"
            )

    def replace(self, path: str, data: bytes, version: str | None) -> str:
        """Replace an object by a conditional write."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._failures(path):
            try:
                return self._send(path, data, hashlib.sha256(data).hexdigest(), **condition)
            except ClientError as error:
                if _no_bucket(error) or _status(error) not in {_NOT_FOUND, _CONFLICT, _PRECONDITION_FAILED}:
                    raise
        found = self.read(path)
        if found is None or found.data != data:
            raise ChangedMeanwhile(self.at(path))
        return found.version  # an earlier attempt was stored, but its answer was lost

    def delete(self, path: str) -> None:
        """Delete an object, if it exists."""
        with self._failures(path):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def served(self, *, host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[str]:
        """Yield the address at which the store itself serves the bucket to all that its policy lets read."""
        del host, port
        return nullcontext(f"{self.client.meta.endpoint_url}/{self.bucket}/{quote(self.prefix)}")

    def _require_site(self, *, create: bool) -> None:
        if self.version(_MARKER) is None:
            if not create:
                raise UnsafeSite(f"site: {self.name} is not a site of this farm; give the address of one")
            if next(self.paths(), None) is not None:
                raise UnsafeSite(
                    f"site: {self.name} holds objects that are not a site of this farm; give a new prefix"
                )
            self.put(_MARKER, b"")
        for name, condition in (("If-None-Match", {"IfNoneMatch": "*"}), ("If-Match", {"IfMatch": '"0"'})):
            with self._failures(_MARKER):
                try:
                    self._send(_MARKER, b"", hashlib.sha256(b"").hexdigest(), **condition)
                except ClientError as error:
                    if _status(error) != _PRECONDITION_FAILED:
                        raise
                    continue
            raise UnsafeSite(
                f"site: {self.name}: its store ignores {name}, so that two publishers could lose each "
                "other's wheels; give a store with conditional writes, or a folder"
            )

    def _send(self, path: str, body: Any, sha256: str, **condition: str) -> str:
        answer = self.client.put_object(
            Bucket=self.bucket,
            Key=self.prefix + path,
            Body=body,
            ContentType=content_type(path),
            CacheControl=cache_control(path),
            ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
            Metadata={"sha256": sha256},
            **condition,
        )
        return str(answer["ETag"])

    def _holds(self, path: str, sha256: str) -> bool:
        """Return whether an object is stored; raise if it is with another sha256."""
        found = self._head(path)
        if found is None:
            return False
        if found["Metadata"].get("sha256") != sha256:
            raise StoreConflict(
                f"{self.at(path)}: is stored with other bytes, by a publish that runs now or was killed; a "
                "stored file never changes: build a new version, or delete the object if no publish runs"
            )
        return True

    def _head(self, path: str) -> dict[str, Any] | None:
        with self._failures(path):
            try:
                found: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)
            except ClientError as error:
                if _status(error) == _NOT_FOUND:
                    return None
                raise
        return found

    def _require_sha256(self, path: str, answer: dict[str, Any], found: str) -> None:
        wanted = answer["Metadata"].get("sha256", found)
        if found != wanted:
            raise StoreFailed(
                f"{self.at(path)}: the store returned other bytes (sha256 {found[:12]}…) than it was given "
                f"({wanted[:12]}…)"
            )

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StoreFailed(f"{self.at(path)}: {' '.join(str(error).split())}") from error


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _no_bucket(error: ClientError) -> bool:
    return bool(error.response["Error"]["Code"] == "NoSuchBucket")
