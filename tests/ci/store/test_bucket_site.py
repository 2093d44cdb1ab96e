"""A site in a bucket: what installers get, and what becomes of it when the store misbehaves."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from ci.errors import FarmError, StoreConflict, StoreFailed, UnsafeSite, WheelConflict
from ci.project import ROOT
from ci.stages import revise
from ci.stages.listing import Context
from ci.stages.publish import publish, yank
from ci.stages.rebuild import rebuild
from ci.stages.snapshot import snapshot
from ci.stages.verify import verify
from ci.store.s3 import S3Store
from index_site.errors import CorruptManifest
from tests.quiet import Quiet
from tests.site_kit import NOW, TRUSTING, flash_wheel, report, torch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from index_site.manifest import Manifest
    from tests.s3_kit import Faults


def put(site: S3Store, *wheels: Path, reports: tuple[Path, ...] = ()) -> Manifest:
    return publish(wheels=wheels, reports=reports, site=site, now=NOW, progress=Quiet(), policy=TRUSTING)


def objects(site: S3Store) -> dict[str, str]:
    """Every object with the sha256 of its bytes."""
    found = {path: site.read(path) for path in site.paths()}
    return {path: hashlib.sha256(stored.data).hexdigest() for path, stored in found.items() if stored}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return flash_wheel(tmp_path / "dist")


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    return flash_wheel(tmp_path / "dist", version="0.2.0")


@pytest.mark.slow
def test_every_way_of_the_page_installs_from_a_bucket(bucket: S3Store, wheel: Path, tmp_path: Path) -> None:
    put(bucket, wheel)
    put(bucket, reports=(report(tmp_path / "r.json", wheel),))
    snapshot(site=bucket, date="2026-12-07", progress=Quiet())
    torch_site = torch_folder(tmp_path / "torch")
    checks = verify(site=bucket, python=Path(sys.executable), progress=Quiet(), torch_site=torch_site)
    assert {check.name for check in checks} > {
        "files",
        "pages",
        "links",
        "store",
        "stable: pip",
        "stable: uv",
    }


def test_yank_and_rebuild_work_on_a_bucket(bucket: S3Store, wheel: Path, newer: Path, tmp_path: Path) -> None:
    put(bucket, wheel, newer)
    put(bucket, reports=(report(tmp_path / "r.json", wheel),))
    snapshot(site=bucket, date="2026-12-07", progress=Quiet())
    yank(site=bucket, patterns=["*-0.2.0-*"], reason="wrong", progress=Quiet())
    before = objects(bucket)
    bucket.delete("manifest.json")
    with pytest.raises(CorruptManifest, match=r"^s3://.*/fa3/manifest\.json: cannot be read"):
        put(bucket, wheel)
    rebuild(site=bucket, now=NOW, progress=Quiet(), context=Context(base_url=""), policy=TRUSTING)
    assert objects(bucket) == before


def test_publishing_again_writes_nothing(bucket: S3Store, wheel: Path) -> None:
    put(bucket, wheel)
    before = {path: bucket.version(path) for path in bucket.paths()}
    put(bucket, wheel)
    assert {path: bucket.version(path) for path in bucket.paths()} == before


def test_other_bytes_under_a_name_are_refused_published_or_not(
    bucket: S3Store, wheel: Path, newer: Path, tmp_path: Path
) -> None:
    put(bucket, wheel)
    other = flash_wheel(tmp_path / "other", note="other bytes")
    with pytest.raises(WheelConflict, match="a published wheel never changes"):
        put(bucket, other)
    bucket.put(f"files/{newer.name}", b"of a publish that was killed before its manifest")
    before = objects(bucket)
    with pytest.raises(StoreConflict, match=r"files/flash_attn3-0\.2\.0.*is stored with other bytes"):
        put(bucket, newer)
    assert objects(bucket) == before


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3://Bucket/x", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/a b", "s3://b/x?y=1"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(FarmError, match=r"site: should be s3://BUCKET/PREFIX or a folder, got 's3://"):
        S3Store.connect(address)


def test_a_missing_bucket_and_missing_credentials_are_named(
    endpoint: str, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreFailed, match=r"^s3://no-such-bucket/fa3/.*NoSuchBucket"):
        put(S3Store.connect("s3://no-such-bucket/fa3", endpoint_url=endpoint), wheel)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which has read the environment already
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreFailed, match="Unable to locate credentials"):
        put(S3Store.connect("s3://no-such-bucket/fa3", endpoint_url=endpoint), wheel)


# ---- faults


@pytest.fixture
def direct(bucket: S3Store, wheel: Path) -> S3Store:
    """A site with one wheel."""
    put(bucket, wheel)
    return bucket


@pytest.fixture
def faults(faulty_endpoint: tuple[S3Store, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(revise, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(revise, "ATTEMPTS", 3)
    yield faulty_endpoint[1]
    faulty_endpoint[1].clear()


@pytest.fixture
def faulty(direct: S3Store, faults: Faults, faulty_endpoint: tuple[S3Store, Faults]) -> S3Store:
    """The same site with these faults."""
    faults.clear()
    return replace(direct, client=faulty_endpoint[0].client)


@pytest.mark.parametrize("refused", ["PUT", "manifest.json", "GET", "candidate/simple/", "HEAD"])
def test_a_store_that_fails_is_one_error_and_the_next_publish_completes_the_site(
    direct: S3Store, faulty: S3Store, faults: Faults, newer: Path, refused: str
) -> None:
    wheels = [f"flash_attn3-{version}-" for version in ("0.1.0", "0.2.0")]
    faults.refused = refused
    with pytest.raises(StoreFailed, match=r"^s3://site-[0-9a-f]+/[0-9a-f]+/fa3/.*503") as caught:
        put(faulty, newer)
    assert "\n" not in str(caught.value)
    listed = direct.read("candidate/simple/flash-attn3/index.html")
    assert listed is not None
    assert wheels[0] in listed.data.decode()
    assert len(put(direct, newer).wheels) == 2
    listed = direct.read("candidate/simple/flash-attn3/")
    assert listed is not None
    assert wheels[1] in listed.data.decode()


def test_a_slow_store_is_one_error(faulty: S3Store, faults: Faults, wheel: Path) -> None:
    faults.slow_s = 2
    with pytest.raises(StoreFailed, match="Read timeout on endpoint URL"):
        put(faulty, wheel)


@pytest.mark.parametrize("lost", ["PUT", "manifest.json", "PUT /{}fa3/manifest.json", "simple/index.html"])
def test_a_lost_answer_is_no_conflict(
    faulty: S3Store, direct: S3Store, faults: Faults, newer: Path, lost: str
) -> None:
    faults.lost = lost.format(f"{faulty.bucket}/{faulty.prefix[:-4]}")
    assert len(put(faulty, newer).wheels) == 2
    assert faults.lost == ""
    pages = [direct.read(f"candidate/{page}") for page in ("index.html", "simple/flash-attn3/")]
    assert all(page is not None and newer.name in page.data.decode() for page in pages)


@pytest.mark.parametrize("stale", ["GET /{}fa3/manifest.json", "/fa3/manifest.json", "/fa3/"])
def test_old_answers_of_a_store_shorten_no_index(
    direct: S3Store, faulty: S3Store, faults: Faults, tmp_path: Path, stale: str
) -> None:
    """The store returns what it held before another publisher added a wheel."""
    put(faulty)
    faults.stale = stale.format(f"{faulty.bucket}/{faulty.prefix[:-4]}")
    put(direct, flash_wheel(tmp_path / "dist", version="0.2.0"))
    before = objects(direct)
    refusal = r"returns old versions|an index never shrinks"
    with pytest.raises((StoreConflict, CorruptManifest), match=refusal):
        put(faulty, flash_wheel(tmp_path / "dist", version="0.3.0"))
    after = objects(direct)
    added = {path for path in after if path not in before}
    assert {path: after[path] for path in before} == before
    assert all(path.startswith("files/flash_attn3-0.3.0-") for path in added)
    faults.clear()
    assert len(put(faulty, flash_wheel(tmp_path / "dist", version="0.3.0")).wheels) == 3


def test_a_store_that_ignores_conditions_is_refused(
    faulty: S3Store, direct: S3Store, faults: Faults, wheel: Path
) -> None:
    before = objects(direct)
    faults.unconditional = True
    with pytest.raises(
        UnsafeSite, match="its store ignores If-None-Match, so that two publishers could lose"
    ):
        put(faulty, wheel)
    assert objects(direct) == before


def test_altered_bytes_are_recognised(faulty: S3Store, faults: Faults, wheel: Path) -> None:
    faults.cut = "GET /"
    with pytest.raises(StoreFailed, match="the store returned other bytes"):
        put(faulty, wheel)


# ---- the command line


@pytest.mark.slow
def test_the_commands_work_on_a_bucket(bucket: S3Store, endpoint: str, wheel: Path) -> None:
    place = ["--site", bucket.name, "--endpoint-url", endpoint]

    def farm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ci", *arguments, *place]
        return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)

    published = farm("publish", "--force", wheel)  # the wheel of this test would fail an audit
    assert (published.returncode, published.stdout.splitlines()[-1]) == (0, bucket.name), published.stderr
    yanked = farm("yank", "*", "--reason", "wrong")
    assert (yanked.returncode, yanked.stderr) == (0, f"{wheel.name}: yanked: wrong\n")
    refused = farm("snapshot", "2026-12-07")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"farm: error: {bucket.name}: stable lists no wheel, so that there is nothing to freeze\n"
    )
    place[1] = f"s3://{bucket.bucket}/siet"
    wrong = farm("yank", "*", "--undo")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (25, 1)
    assert f"site: {place[1]} is not a site of this farm" in wrong.stderr
