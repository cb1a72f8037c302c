"""API keys: several at once, rotated, told apart in the audit trail and never shown there."""

import hmac
from pathlib import Path

import asyncpg
import pytest

from support.api import USERS
from support.application import running
from support.settings import API_KEY, make_settings
from user_service.bootstrap import Resources
from user_service.errors import Unauthenticated
from user_service.security.api_keys import internal_key
from user_service.security.authentication import Authenticator

OLD, NEW = "the-key-that-goes-4c1d", "the-key-that-comes-9e2b"


@pytest.fixture
def authenticator(tmp_path: Path) -> Authenticator:
    """One that knows both keys."""
    return Resources(make_settings("postgresql://nowhere", tmp_path, internal_api_key=(OLD, NEW))).authenticator


def find_name(authenticator: Authenticator, headers: dict[bytes, bytes]) -> str:
    found = authenticator.find(headers)
    assert found is not None
    return found.name


def key_headers(key: str) -> list[dict[bytes, bytes]]:
    return [{b"x-api-key": key.encode()}, {b"authorization": b"Bearer " + key.encode()}]


@pytest.mark.parametrize("key", [OLD, NEW])
def test_each_key_opens_in_both_headers(authenticator: Authenticator, key: str) -> None:
    names = {find_name(authenticator, headers) for headers in key_headers(key)}

    assert names == {internal_key(key).principal.name}


@pytest.mark.parametrize("key", ["", " ", OLD[:-1], OLD + "x", OLD.upper(), f"{OLD},{NEW}", "ключ", "\x00"])
def test_anything_else_is_refused(authenticator: Authenticator, key: str) -> None:
    for headers in key_headers(key):
        with pytest.raises(Unauthenticated):
            authenticator.find(headers)


@pytest.mark.parametrize("presented", [OLD, NEW, "none of them", ""])
def test_every_key_is_compared_in_constant_time_whatever_is_presented(
    monkeypatch: pytest.MonkeyPatch, authenticator: Authenticator, presented: str
) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def record(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr("hmac.compare_digest", record)
    try:
        authenticator.find({b"x-api-key": presented.encode()})
    except Unauthenticated:
        assert presented not in (OLD, NEW)

    assert compared == ([OLD.encode(), NEW.encode()] if presented else [])


def test_a_name_says_which_key_and_nothing_of_it() -> None:
    names = {internal_key(key).principal.name for key in (OLD, NEW)}

    assert len(names) == 2
    assert not any(part in name for name in names for part in ("the", "key-that", "4c1d", "9e2b"))


async def test_a_rotation_of_api_keys_refuses_no_client_and_shows_in_the_audit_trail(
    database_url: str, tmp_path: Path
) -> None:
    async def change(keys: tuple[str, ...], key: str) -> int:
        async with running(make_settings(database_url, tmp_path, internal_api_key=keys)) as client:
            client.headers["X-API-Key"] = key
            return (await client.put(f"{USERS}/by-external-id/1", json={"email": f"{key}@example.org"})).status_code

    before = await change((OLD,), OLD)
    during = [await change((NEW, OLD), OLD), await change((NEW, OLD), NEW)]
    after = [await change((NEW,), NEW), await change((NEW,), OLD)]

    connection = await asyncpg.connect(database_url)
    actors = [row["actor"] for row in await connection.fetch("SELECT actor FROM user_changes ORDER BY version")]
    await connection.close()
    assert (before, during, after) == (201, [200, 200], [200, 401])
    assert actors == [internal_key(key).principal.name for key in (OLD, NEW)]
    assert API_KEY not in "".join(actors)
