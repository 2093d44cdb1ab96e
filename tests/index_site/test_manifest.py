"""The manifest: strict when read, canonical when written."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from index_site.errors import CorruptManifest, OtherSchema
from index_site.manifest import (
    ExcludedCells,
    dump_manifest,
    parse_manifest,
    read_manifest,
    timestamp,
)
from matrix.block import Block
from tests.site_kit import SUPPORT, emulated_wheel, manifest_wheel, proof, site_manifest

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = site_manifest(
    manifest_wheel("0.10.0", channel="stable"),
    manifest_wheel("0.9.0", yanked="slow"),
    base_url="https://host.example/",
    exclusions=(
        ExcludedCells(
            cells=Block(platform=("win_amd64",)), reason="no Windows machine has run it: höchste Zeit"
        ),
    ),
)


def test_round_trip_keeps_every_byte() -> None:
    raw = dump_manifest(MANIFEST)
    assert parse_manifest(raw, name="it") == MANIFEST
    assert dump_manifest(parse_manifest(raw, name="it")) == raw
    assert json.loads(raw)["schema_version"] == 3


def test_wheels_are_in_the_order_of_versions() -> None:
    assert [wheel.version for wheel in MANIFEST.wheels] == ["0.9.0", "0.10.0"]


def test_one_wheel_is_one_line() -> None:
    lines = dump_manifest(MANIFEST).decode().splitlines()
    assert [json.loads(line.rstrip(","))["version"] for line in lines[1:-1]] == ["0.9.0", "0.10.0"]


GONE = {"filename": MANIFEST.wheels[0].filename, "sha256": "0" * 64, "reason": "too old"}
PROOF = proof("it").model_dump(mode="json")
SNAPSHOT = {"date": "2026-12-07", "pages": {"2026-12-07/index.html": "0" * 64}}


def edited(**changes: Any) -> bytes:
    document = json.loads(dump_manifest(MANIFEST))
    wheel = document["wheels"][1]
    for key, value in changes.items():
        (wheel if key in wheel else document)[key] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "EOF"),
        (dump_manifest(MANIFEST)[:-40], "EOF"),
        (b"[]", "the document: "),
        (edited(schema_version=1), "schema_version: should be 3, got 1; publish the wheels and reports"),
        (edited(schema_version="3"), "schema_version: should be 3, got '3'"),
        (edited(support="0" * 16), "wrong: 0000000000000000"),
        (edited(supports={}), f"wrong: {SUPPORT.key}"),
        (edited(supports={"0" * 16: SUPPORT.model_dump(mode="json")}), f"should have the key {SUPPORT.key}"),
        (edited(exclusions=[{"cells": {"gpu": ["90"]}, "reason": "no"}]), "exclusions.0.cells.gpu"),
        (edited(sha256="abc"), "wheels.1.sha256"),
        (edited(size="12"), "wheels.1.size"),
        (edited(filename="../../etc/passwd"), "wheels.1.filename"),
        (edited(upload_time="yesterday"), "wheels.1.upload_time"),
        (edited(channel="nightly"), "wheels.1.channel"),
        (edited(proofs=[]), "on stable without a report that counts"),
        (edited(surprise=1), "surprise"),
        (edited(version="<script>"), "wheels.1.version"),
        (edited(version="latest"), "wheels.1.version"),
        (edited(project="Flash_Attn3"), "wheels.1.project"),
        (edited(project="../x"), "wheels.1.project"),
        (
            edited(proofs=[proof("it").model_dump(mode="json") | {"path": "../../etc/passwd"}]),
            "proofs.0.path",
        ),
        (edited(removed=[GONE]), f"{GONE['filename']} is listed, and removed as well"),
        (edited(statuses={"flash-attn3": {"status": "dead"}}), "statuses.flash-attn3.status"),
        (edited(snapshots=[SNAPSHOT, SNAPSHOT]), "sorted by date, each date once"),
        (edited(snapshots=[{**SNAPSHOT, "date": "2026-13-07"}]), "snapshots.0.date"),
        (edited(snapshots=[{**SNAPSHOT, "pages": {"stable/index.html": "0" * 64}}]), "no page of 2026-12-07"),
        (edited(snapshots=[{**SNAPSHOT, "pages": {"2026-12-07/../x": "0" * 64}}]), "no page of 2026-12-07"),
        (edited(filename=MANIFEST.wheels[0].filename), "listed twice"),
    ],
)
def test_wrong_manifest_is_refused_with_the_place(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(CorruptManifest, match=message) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)


@pytest.mark.parametrize(("version", "other"), [(1, True), (4, True), (3, False)])
def test_another_schema_is_an_error_of_its_own(version: int, other: bool) -> None:
    with pytest.raises(CorruptManifest) as caught:
        parse_manifest(edited(schema_version=version, surprise=1), name="it")
    assert isinstance(caught.value, OtherSchema) == other


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(CorruptManifest, match="cannot be read: No such file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"passed": False}, {"quick": True}, {"gap": "a kernel did not run"}, {"voucher": ""}], ids=str
)
def test_stable_wheel_needs_a_proof_that_counts(changes: dict[str, Any]) -> None:
    lacking = proof("it").model_copy(update=changes)
    for proofs in ((), (lacking,)):
        with pytest.raises(ValidationError, match="on stable without a report that counts"):
            manifest_wheel("0.1.0", channel="stable", proofs=proofs)
    assert manifest_wheel("0.1.0", channel="stable", proofs=(lacking, proof("it"))).channel == "stable"


def test_a_wheel_that_is_stable_by_emulation_needs_its_kernels_in_a_proven_one() -> None:
    """A manifest that somebody edited, or that lost the other wheel, is refused."""
    proven = manifest_wheel("0.1.0", channel="stable", pack="1" * 64)
    emulated = emulated_wheel("0.1.0", pack="1" * 64)
    assert len(site_manifest(proven, emulated).on_channel("stable")) == 2
    others = (
        manifest_wheel("0.1.0", channel="stable", pack="2" * 64),
        manifest_wheel("0.1.0", channel="stable", pack=None),
        manifest_wheel("0.2.0", channel="stable", pack="1" * 64),
        manifest_wheel("0.1.0", pack="1" * 64, proofs=(proof("it"),)),
    )
    for other in others:
        with pytest.raises(ValidationError, match=r"aarch64.whl is on stable, and no GPU has validated"):
            site_manifest(other, emulated)
    with pytest.raises(ValidationError, match=r"aarch64.whl is on stable, and no GPU has validated"):
        site_manifest(
            manifest_wheel("0.1.0", channel="stable", pack=None), emulated_wheel("0.1.0", pack=None)
        )


@pytest.mark.parametrize(
    "changes",
    [{"passed": False}, {"quick": True}, {"gap": "a section did not run"}, {"voucher": ""}],
    ids=str,
)
def test_a_wheel_that_is_stable_by_emulation_needs_one_that_counts(changes: dict[str, Any]) -> None:
    (run,) = emulated_wheel("0.1.0", pack="1" * 64).emulations
    lacking = run.model_copy(update=changes)
    with pytest.raises(ValidationError, match=r"aarch64.whl is on stable without a report that counts"):
        emulated_wheel("0.1.0", pack="1" * 64, emulations=(lacking,))


def test_candidate_channel_lists_everything() -> None:
    assert MANIFEST.on_channel("candidate") == MANIFEST.wheels
    assert [wheel.version for wheel in MANIFEST.on_channel("stable")] == ["0.10.0"]


@settings(max_examples=30)
@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)), st.integers(-12, 12))  # noqa: DTZ001
def test_timestamp_is_utc_whatever_the_zone(naive: datetime, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    moment = naive.replace(tzinfo=timezone.utc)
    assert timestamp(moment.astimezone(zone)) == timestamp(moment) == naive.strftime("%Y-%m-%dT%H:%M:%SZ")
