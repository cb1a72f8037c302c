"""Derived keys: databases were written with them, so they must never change."""

import base64
import hmac
from pathlib import Path

import pytest

from support.settings import make_settings
from user_service.encryption.keyring import derive_key, fingerprint, load_keys

KEY = bytes(range(32))
DERIVED = {
    b"blind-index": "6a535b6db70766cbd137c293b6606379b048cd88f20a7a43e7e725d1d1e688bc",
    b"cursor": "4d4eaf13bb3b735d713622bdd15dcf0a5469064acba9aee45e7ed26ff7d54f47",
    b"principal": "e40df76fa41328eb85073e854992b3b16a799563229cae11118882031021fcf6",
    b"idempotency": "1622fca01431feff315a71de4561b8fefc6822cdc40a5510f95b99d61bb7a069",
    b"fingerprint": "5ec807c99e79d627b6ec93f1468d4a78e2be8991263889685785494d08384942",
}


@pytest.mark.parametrize(("purpose", "expected"), DERIVED.items())
def test_a_derived_key_is_the_one_of_the_first_release(purpose: bytes, expected: str) -> None:
    assert derive_key(KEY, purpose).hex() == expected


def test_a_fingerprint_is_the_one_of_the_first_release() -> None:
    assert fingerprint(KEY) == "d71a38a1585806ca25ae2cfcf7777b8a"


def test_each_key_of_a_keyring_is_derived_for_its_purpose(tmp_path: Path) -> None:
    settings = make_settings(None, tmp_path, encryption_key=f"k1:{base64.b64encode(KEY).decode()}")

    keys = load_keys(settings)
    derived = {name: derive_key(keys.blind_index, name.encode()) for name in ("cursor", "principal", "idempotency")}

    assert keys.blind_index.hex() == DERIVED[b"blind-index"]
    assert {"cursor": keys.cursor, "principal": keys.principal} == {
        name: derived[name] for name in ("cursor", "principal")
    }
    assert keys.idempotency.digest(b"request") == hmac.digest(derived["idempotency"], b"request", "sha256")
