"""Secrets that change while the service runs: taken over where they are good, refused where they are not."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.api import USERS
from support.application import Client, running
from support.process import command
from support.rotation import check, replica
from support.secret_files import SecretFolder
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, make_settings
from support.tokens_kept import key_ids, meta
from support.waiting import eventually
from user_service.secret_rotation import SecretFiles

K1, K2 = ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
WRONG_K1 = K2.replace("k2:", "k1:")
WRONG_K2 = K1.replace("k1:", "k2:")
BLIND = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU="
QUICK = {"SECRETS_RELOAD_SECONDS": "1", "REQUEST_TIMEOUT": "1"}
FRESH = {"Cache-Control": "no-cache"}


@pytest.fixture
def secrets(tmp_path: Path) -> SecretFolder:
    return SecretFolder(tmp_path / "secrets", ENCRYPTION_KEY=K1, INTERNAL_API_KEY=API_KEY)


async def is_ready(client: Client) -> bool:
    return (await client.get("/api/health/ready")).status_code == 200


async def test_what_has_not_changed_is_left_alone(database_url: str, secrets: SecretFolder) -> None:
    async with replica(database_url, secrets) as client:
        assert await check(client) == {}
        secrets.swap()
        assert await check(client) == {}


async def test_a_key_is_added_used_and_removed(database_url: str, secrets: SecretFolder, tmp_path: Path) -> None:
    async with replica(database_url, secrets) as client:
        path = await client.make(given_name="Ada")
        secrets.swap(ENCRYPTION_KEY=f"{K1},{K2}")
        await check(client)
        await client.make()
        at_the_end = await key_ids(database_url)
        secrets.swap(ENCRYPTION_KEY=f"{K2},{K1}")
        await check(client)
        await client.make()
        in_front = await key_ids(database_url)
        environ = {"DATABASE_URL": database_url, **QUICK, **secrets.environ}
        await asyncio.to_thread(command, tmp_path, "reencrypt", **environ)
        printed = await asyncio.to_thread(command, tmp_path, "keys", "blind-index", **environ)
        secrets.swap(ENCRYPTION_KEY=K2, BLIND_INDEX_KEY=printed.stdout.strip())
        outcomes = await check(client)
        read = await client.get(path, headers=FRESH)

    assert at_the_end == {"k1": 2}
    assert in_front == {"k1": 2, "k2": 1}
    assert outcomes == {"applied": 3}
    assert read.json()["given_name"] == "Ada"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"ENCRYPTION_KEY": "k2:nonsense"}, id="malformed"),
        pytest.param({"ENCRYPTION_KEY": ""}, id="empty"),
        pytest.param({"ENCRYPTION_KEY": K2}, id="the active key is missing"),
        pytest.param({"ENCRYPTION_KEY": f"{K2},{WRONG_K1}"}, id="another key under its id"),
        pytest.param({"BLIND_INDEX_KEY": BLIND}, id="another blind index key"),
        pytest.param({"ENCRYPTION_KEY": f"change-me-{K1}"}, id="published with the manifests"),
        pytest.param({"INTERNAL_API_KEY": "change-me-change-me"}, id="a placeholder"),
        pytest.param({"INTERNAL_API_KEY": ""}, id="no API key"),
    ],
)
async def test_what_does_not_fit_is_refused_and_what_was_there_goes_on(
    database_url: str, secrets: SecretFolder, capfd: pytest.CaptureFixture[str], bad: dict[str, str]
) -> None:
    async with replica(database_url, secrets, APP_ENV="production") as client:
        path = await client.make(given_name="Ada")
        before = await meta(database_url)
        secrets.swap(**bad)
        await check(client)
        outcomes = await check(client)
        responses = [await client.get(path, headers=FRESH), await client.get(USERS, params={"q": "ada"})]
        await client.make()
        ready, after = await is_ready(client), await meta(database_url)
        secrets.swap(ENCRYPTION_KEY=f"{K1},{K2}", BLIND_INDEX_KEY="", INTERNAL_API_KEY=API_KEY)
        mended = await check(client)

    assert outcomes == {"refused": 1}
    assert [response.status_code for response in responses] == [200, 200]
    assert ready
    assert after == before
    assert mended == {"refused": 1, "applied": 1}
    assert set(await key_ids(database_url)) == {"k1"}
    said = "".join(capfd.readouterr())
    assert "changed secrets are refused" in said
    assert not any(text.rpartition(":")[2] in said for text in (*bad.values(), K1) if len(text) > 10)


async def test_of_two_replicas_with_different_keys_of_one_id_one_goes_on_with_what_it_had(
    database_url: str, tmp_path: Path
) -> None:
    folders = [SecretFolder(tmp_path / name, ENCRYPTION_KEY=K1, INTERNAL_API_KEY=API_KEY) for name in ("a", "b")]
    async with replica(database_url, folders[0]) as one, replica(database_url, folders[1]) as other:
        folders[0].swap(ENCRYPTION_KEY=f"{K2},{K1}")
        folders[1].swap(ENCRYPTION_KEY=f"{WRONG_K2},{K1}")
        outcomes = [await check(one), await check(other)]
        paths = [await one.make(), await other.make()]
        folders[1].swap(ENCRYPTION_KEY=f"{K2},{K1}")
        mended = await check(other)
        responses = [await client.get(path, headers=FRESH) for client in (one, other) for path in paths]

    assert outcomes == [{"applied": 1}, {"refused": 1, "outdated": 1}]
    assert mended["applied"] == 1
    assert [response.status_code for response in responses] == [200] * 4


async def test_a_key_that_is_not_loaded_yet_is_found_when_it_is_needed(database_url: str, tmp_path: Path) -> None:
    """One replica seals under a new key before the other one has looked at its files."""
    folders = [SecretFolder(tmp_path / name, ENCRYPTION_KEY=K1, INTERNAL_API_KEY=API_KEY) for name in ("a", "b")]
    async with (
        replica(database_url, folders[0]) as early,
        replica(database_url, folders[1], seconds_between_searches=0) as late,
    ):
        folders[0].swap(ENCRYPTION_KEY=f"{K2},{K1}")
        await check(early)
        path = await early.make(given_name="Ada")
        before = await late.get(path, headers=FRESH)
        folders[1].swap(ENCRYPTION_KEY=f"{K2},{K1}")
        after = [await late.get(path, headers=FRESH), await late.get(USERS), await late.get(path)]
        written = await late.patch(path, json={"given_name": "Grace"})
        await late.make()

    assert (before.status_code, before.json()["code"], before.headers["retry-after"]) == (503, "key_not_loaded", "1")
    assert "'k2'" in before.json()["detail"]
    assert [response.status_code for response in after] == [200, 200, 200]
    assert written.status_code == 200
    # It opens with the new key, and seals with the old one until it has compared the new one with the database.
    assert await key_ids(database_url) == {"k1": 2}


def test_files_are_searched_for_a_key_once_a_second_at_most(secrets: SecretFolder) -> None:
    files = SecretFiles(secrets.environ, seconds_between_searches=60)
    first = files.find_keys("k9")
    second = files.find_keys("k9")

    assert set(first) == {"k1"}
    assert second == {}


async def test_what_stands_in_redis_under_a_key_that_is_gone_is_a_miss(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = make_settings(database_url, tmp_path, redis_url=redis_url, blind_index_key=BLIND)
    async with running(settings) as client:
        path = await client.make(given_name="Ada")
        await client.get(path)
        await eventually(lambda: client.is_cached(path))
    environ = {"DATABASE_URL": database_url, "ENCRYPTION_KEY": f"{K2},{K1}", "BLIND_INDEX_KEY": BLIND, **QUICK}
    await asyncio.to_thread(command, tmp_path, "reencrypt", **environ)

    later = make_settings(database_url, tmp_path, redis_url=redis_url, blind_index_key=BLIND, encryption_key=K2)
    async with running(later) as client:
        read = await client.get(path)
        again = await client.is_cached(path)

    assert read.json()["given_name"] == "Ada"
    assert again


async def test_a_replica_whose_key_was_retired_seals_under_the_next_one(
    database_url: str, secrets: SecretFolder, tmp_path: Path
) -> None:
    """Its files still have the former key in front; the database knows better."""
    secrets.swap(ENCRYPTION_KEY=f"{K1},{K2}")
    async with replica(database_url, secrets) as client:
        await client.make()
        environ = {"DATABASE_URL": database_url, "ENCRYPTION_KEY": f"{K2},{K1}", **QUICK}
        done = await asyncio.to_thread(command, tmp_path, "reencrypt", **environ)
        await check(client)
        await client.make()

    assert done.returncode == 0, done.stderr
    assert await key_ids(database_url) == {"k2": 2}


async def test_a_replica_with_nothing_but_a_retired_key_writes_nothing_until_it_has_another(
    database_url: str, secrets: SecretFolder, tmp_path: Path
) -> None:
    async with replica(database_url, secrets) as client:
        await client.make()
        environ = {"DATABASE_URL": database_url, "ENCRYPTION_KEY": f"{K2},{K1}", **QUICK}
        await asyncio.to_thread(command, tmp_path, "reencrypt", **environ)
        await check(client)
        refused = await client.post(USERS, json={"email": "ada@example.org"})
        was_ready = await is_ready(client)
        secrets.swap(ENCRYPTION_KEY=f"{K2},{K1}")
        await check(client)
        await client.make()

    assert refused.status_code == 503
    assert not was_ready
    assert await key_ids(database_url) == {"k2": 2}


async def test_a_start_with_a_wrong_key_is_mended_without_a_restart(
    postgres: PostgresServer, database_url: str, secrets: SecretFolder, caplog: pytest.LogCaptureFixture
) -> None:
    written = urlsplit(database_url).path.removeprefix("/")
    late = f"late_{written}"
    async with replica(database_url, secrets) as client:
        await client.make()
    secrets.swap(ENCRYPTION_KEY=WRONG_K1)

    # The database comes after the replica, as in a start during an outage: a wrong key does not end the process then.
    async with replica(database_url.replace(f"/{written}", f"/{late}", 1), secrets) as client:
        await asyncio.to_thread(postgres.create_database, late, template=written)

        async def refused() -> bool:
            return "the service can't use this database" in caplog.messages

        await eventually(refused)
        was_ready = await is_ready(client)
        secrets.swap(ENCRYPTION_KEY=f"{K1},{K2}")
        await check(client)
        assert await is_ready(client)
    postgres.drop_database(late)

    assert not was_ready


async def test_api_keys_change_at_once_and_without_a_gap(database_url: str, secrets: SecretFolder) -> None:
    new = "the-api-key-that-comes-9e2b"
    seen = []
    async with replica(database_url, secrets) as client:
        for keys in (API_KEY, f"{API_KEY},{new}", new):
            secrets.swap(INTERNAL_API_KEY=keys)
            await check(client)
            responses = [await client.get(USERS, headers={"X-API-Key": key}) for key in (API_KEY, new)]
            seen.append([response.status_code for response in responses])

    assert seen == [[200, 401], [200, 200], [401, 200]]
