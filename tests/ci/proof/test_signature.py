from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ci.errors import BadSignature, CorruptReport, FarmError
from ci.gpu_side.report_file import write_report
from ci.proof.report import read_report
from ci.proof.signature import new_key, sign_report, signer_of
from tests.ci.validation_kit import ROW, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "farm.pem"
    return path, new_key(path)


def test_a_signed_report_names_its_signer(tmp_path: Path, key: tuple[Path, str]) -> None:
    path, (private, public) = write(tmp_path / "r.json"), key
    before = read_report(path)
    assert signer_of(before, {"farm": public}, path) == ""
    assert sign_report(path, private) == public
    report = read_report(path)
    assert report.model_copy(update={"signature": None}) == before
    other = new_key(tmp_path / "next.pem")
    assert signer_of(report, {"next": other, "farm": public}, path) == "farm"


def test_a_later_signature_replaces_the_earlier(tmp_path: Path, key: tuple[Path, str]) -> None:
    path = write(tmp_path / "r.json")
    sign_report(path, key[0])
    public = new_key(tmp_path / "next.pem")
    sign_report(path, tmp_path / "next.pem")
    assert signer_of(read_report(path), {"next": public}, path) == "next"


def test_an_unknown_key_is_refused_by_name(tmp_path: Path, key: tuple[Path, str]) -> None:
    path, (private, public) = write(tmp_path / "r.json"), key
    sign_report(path, private)
    known = {"a": new_key(tmp_path / "a.pem"), "b": new_key(tmp_path / "b.pem")}
    with pytest.raises(BadSignature, match=rf"r\.json: is signed with the key {public}, .*lists a, b\)"):
        signer_of(read_report(path), known, path)
    with pytest.raises(BadSignature, match=r"lists none\)"):
        signer_of(read_report(path), {}, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "NVIDIA H300"},
        {"wheel_sha256": "b" * 64},
        {"cases": [{**ROW, "passed": 2}], "totals": {"cases": 2, "races": 1, "failed": 0}},
    ],
    ids=["gpu", "wheel", "cases"],
)
def test_a_report_changed_after_signing_is_refused(
    tmp_path: Path, key: tuple[Path, str], changes: dict[str, Any]
) -> None:
    """With a new digest, too, the signature is one of another report."""
    path, (private, public) = write(tmp_path / "r.json"), key
    sign_report(path, private)
    signed = json.loads(path.read_bytes())
    path.write_text(json.dumps({**signed, **changes}))
    with pytest.raises(CorruptReport, match="was altered"):
        read_report(path)
    write_report(path, {**signed, **changes})
    with pytest.raises(BadSignature, match="its signature is not one of this report by the key farm"):
        signer_of(read_report(path), {"farm": public}, path)


def test_a_signature_of_another_key_is_refused(tmp_path: Path, key: tuple[Path, str]) -> None:
    path, (_, public) = write(tmp_path / "r.json"), key
    new_key(tmp_path / "thief.pem")
    sign_report(path, tmp_path / "thief.pem")
    signed = json.loads(path.read_bytes())
    signed["signature"]["public_key"] = public
    write_report(path, signed)
    with pytest.raises(BadSignature, match="not one of this report by the key farm"):
        signer_of(read_report(path), {"farm": public}, path)


def test_a_private_key_is_for_its_owner_and_never_overwritten(key: tuple[Path, str]) -> None:
    private, _ = key
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    with pytest.raises(FarmError, match=r"farm\.pem: should be a new file .*File exists"):
        new_key(private)
    assert private.read_bytes() == before


def test_what_is_no_key_is_refused_and_the_report_untouched(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json")
    before = path.read_bytes()
    rsa = tmp_path / "rsa.pem"
    pem = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    rsa.write_bytes(pem)
    (tmp_path / "text.pem").write_text("secret")
    for name, message in (
        ("rsa.pem", "should be an ed25519 private key, got RSA"),
        ("text.pem", "should be an ed25519 private key, as `farm keygen`"),
        ("none.pem", r"none\.pem: cannot be read: No such file"),
    ):
        with pytest.raises(FarmError, match=message):
            sign_report(path, tmp_path / name)
    assert path.read_bytes() == before
