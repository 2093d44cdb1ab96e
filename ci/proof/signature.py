"""Signs reports, of validations and of emulations, with ed25519 keys, and finds who signed one.

A signature is a field of the report. It covers ``report_sha256``, the digest of every other field.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ci.errors import BadSignature, FarmError
from ci.gpu_side.report_file import SIGNATURE_FIELD, write_report
from ci.proof.emulation import is_emulation, parse_emulation
from ci.proof.report import parse_report, report_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ci.proof.emulation import EmulationReport
    from ci.proof.report import Report

_CONTEXT = b"flash-attn3 validation report 2\n"
"""Precedes the digest, so that a signature of this key for another purpose never fits a report."""


def new_key(path: Path) -> str:
    """Write a new private key, readable by its owner alone, and return the public key in hex.

    Raises:
        FarmError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise FarmError(f"{path}: should be a new file for the private key: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key.public_key().public_bytes_raw().hex()


def sign_report(path: Path, key_file: Path) -> str:
    """Sign a report in place, instead of any earlier signature, and return the public key in hex.

    Raises:
        CorruptReport, OtherReportSchema: the file cannot be read as a report.
        FarmError: the key cannot be read, or is no ed25519 key.
        DiskFull: there is no room; the report is untouched.
    """
    raw, key = report_bytes(path), _private_key(key_file)
    report = parse_emulation(raw, path) if is_emulation(raw) else parse_report(raw, path)
    public = key.public_key().public_bytes_raw().hex()
    signature = {"public_key": public, "ed25519": key.sign(_message(report)).hex()}
    write_report(path, {**json.loads(raw), SIGNATURE_FIELD: signature})
    return public


def signer_of(report: Report | EmulationReport, keys: Mapping[str, str], path: Path) -> str:
    """Return the name of the key that signed a report; empty if it is not signed.

    Args:
        report: the report.
        keys: name -> public key in hex; several for the time in which one replaces another.
        path: of the report, for the errors.

    Raises:
        BadSignature: the key is none of ``keys``, or the signature is not one of this report.
    """
    signature = report.signature
    if signature is None:
        return ""
    names = [name for name, key in keys.items() if key == signature.public_key]
    if not names:
        known = ", ".join(keys) or "none"
        raise BadSignature(
            f"{path}: is signed with the key {signature.public_key}, which release.keys of matrix.toml does "
            f"not list (it lists {known})"
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.ed25519), _message(report))
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(
            f"{path}: its signature is not one of this report by the key {names[0]}; it was changed after "
            "signing, or signed wrongly"
        ) from error
    return names[0]


def _message(report: Report | EmulationReport) -> bytes:
    return _CONTEXT + report.report_sha256.encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise FarmError(f"{path}: cannot be read: {error.strerror}") from error
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise FarmError(f"{path}: should be an ed25519 private key, as `farm keygen` writes it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FarmError(f"{path}: should be an ed25519 private key, got {type(key).__name__}")
    return key
