"""An issuer's keys: kept, rotated, and served while the issuer is away."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from support.api import USERS
from support.issuer import AUDIENCE, Issuer, issuer, make_jwk
from support.live_server import live
from support.settings import make_settings
from user_service.errors import IssuerUnavailable
from user_service.security.downloads import MAX_BYTES, download
from user_service.security.jwks import KeySet, parse_jwks


@pytest.fixture
def key_server() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


def patient(made: Issuer) -> KeySet:
    """A key set that may ask again only after an hour."""
    return KeySet(made.jwks_url, refresh_seconds=3600, pause_seconds=3600)


def eager(made: Issuer) -> KeySet:
    return KeySet(made.jwks_url, refresh_seconds=0, pause_seconds=0)


def test_concurrent_tokens_ask_for_the_keys_once(key_server: Issuer) -> None:
    key_id = next(iter(key_server.private))

    async def run() -> list[Any]:
        keys = patient(key_server)
        return await asyncio.gather(*(keys.find(key_id, "ES256") for _ in range(50)))

    found = asyncio.run(run())

    assert all(found)
    assert key_server.asked == 1


def test_unknown_key_ids_do_not_hammer_the_issuer(key_server: Issuer) -> None:
    key_id = next(iter(key_server.private))

    async def run() -> list[Any]:
        keys = patient(key_server)
        return [await keys.find(f"unknown-{number}", "ES256") for number in range(500)] + [
            await keys.find(key_id, "ES256")
        ]

    *unknown, known = asyncio.run(run())

    assert unknown == [None] * 500
    assert known is not None
    assert key_server.asked == 1


def test_a_new_key_is_found_and_a_withdrawn_one_is_not(key_server: Issuer) -> None:
    old = next(iter(key_server.private))

    async def run() -> tuple[Any, Any, Any]:
        keys = eager(key_server)
        before = await keys.find(old, "ES256")
        new = key_server.add_key("RS256")
        del key_server.private[old]
        return before, await keys.find(new, "RS256"), await keys.find(old, "ES256")

    before, new, withdrawn = asyncio.run(run())

    assert before is not None
    assert new is not None
    assert withdrawn is None


def test_keys_are_read_again_in_the_background(key_server: Issuer) -> None:
    key_id = next(iter(key_server.private))

    async def run() -> None:
        keys = eager(key_server)
        await keys.find(key_id, "ES256")
        await keys.find(key_id, "ES256")
        assert keys.refreshing is not None
        await keys.refreshing

    asyncio.run(run())

    assert key_server.asked == 2


@pytest.mark.parametrize("response", [(500, None), (200, b"<html>"), (200, b'{"keys": []}'), (302, None), (200, b"[")])
def test_kept_keys_serve_while_the_issuer_is_out_of_order(
    key_server: Issuer, response: tuple[int, bytes | None]
) -> None:
    key_id = next(iter(key_server.private))

    async def run() -> tuple[Any, Any]:
        keys = eager(key_server)
        before = await keys.find(key_id, "ES256")
        key_server.status, key_server.document = response
        await keys.find(key_id, "ES256")
        if keys.refreshing is not None:
            await keys.refreshing
        with pytest.raises(IssuerUnavailable):
            await keys.find("new", "ES256")
        return before, await keys.find(key_id, "ES256")

    before, after = asyncio.run(run())

    assert before is after


def test_without_keys_a_token_is_answered_with_503(key_server: Issuer, database_url: str, data_dir: Path) -> None:
    key_server.status = 503
    settings = make_settings(
        database_url, data_dir, jwt_issuer=key_server.url, jwt_audience=AUDIENCE, jwt_jwks_url=key_server.jwks_url
    )

    with live(settings) as server, server.client(Authorization=f"Bearer {key_server.token()}") as client:
        response = client.get(USERS)
        with server.client() as internal:
            by_key = internal.get(USERS)

    assert (response.status_code, response.json()["code"]) == (503, "issuer_unavailable")
    assert response.headers["retry-after"]
    assert by_key.status_code == 200


def test_a_key_serves_its_own_algorithms_alone(key_server: Issuer) -> None:
    key_id = key_server.add_key("RS256")

    async def run() -> dict[str, bool]:
        keys = patient(key_server)
        names = ("RS256", "RS512", "PS384", "HS256", "none", "ES256", "EdDSA", "rs256")
        return {name: await keys.find(key_id, name) is not None for name in names}

    served = asyncio.run(run())

    assert [name for name, serves in served.items() if serves] == ["RS256", "RS512", "PS384"]


def test_keys_that_are_not_for_this_are_left_out() -> None:
    strong, weak = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 1024)
    good = make_jwk(strong, "good")
    entries = [
        good,
        make_jwk(weak, "weak"),
        {**good, "kid": "private", "d": "AQAB"},
        {**good, "kid": "for-encryption", "use": "enc"},
        {**good, "kid": "for-hmac", "alg": "HS256"},
        {**good, "kid": "broken", "n": "!"},
        {**good, "kid": 7},
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "EC", "kid": "odd-curve", "crv": "secp256k1"},
        {"kty": ["RSA"], "kid": "odd"},
        "text",
    ]

    keys = parse_jwks(json.dumps({"keys": entries}).encode())

    assert list(keys) == ["good"]


def test_a_document_without_end_is_given_up(key_server: Issuer) -> None:
    key_server.document = b" " * (MAX_BYTES + 1)

    with pytest.raises(ValueError, match="longer than"):
        download(key_server.jwks_url)


def test_a_service_account_shows_its_token_to_the_cluster(key_server: Issuer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("of-the-account\n")

    download(key_server.jwks_url, token_file=token_file)

    assert key_server.authorization == "Bearer of-the-account"
