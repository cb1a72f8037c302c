"""Starts on a database that is away, empty, or belongs to another service."""

import asyncio
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.postgres_faults import stopped
from support.servers import PostgresServer
from support.settings import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, make_settings
from support.waiting import eventually
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.errors import ConfigurationError
from user_service.postgres.migrations import downgrade, upgrade

LIVE, READY = "/api/health/live", "/api/health/ready"
K1, K2 = ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
BLIND = "blind:YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU="


async def is_ready(client: Client) -> bool:
    return (await client.get(READY)).status_code == 200


async def expect_work(client: Client) -> None:
    path = await client.make(given_name="Ada")
    assert (await client.get(path)).json()["given_name"] == "Ada"


async def test_a_database_that_comes_later_is_used_when_it_is_there(
    spare_url: str, spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    spare_postgres.stop()
    try:
        async with running(make_settings(spare_url, tmp_path)) as client:
            before = [(await client.get(path)).status_code for path in (LIVE, READY, USERS)]
            read = await client.get(f"{USERS}/01890000-0000-7000-8000-000000000000")
            spare_postgres.start()
            await eventually(lambda: is_ready(client))
            await expect_work(client)
    finally:
        if spare_postgres.process is None:
            spare_postgres.start()

    assert before == [200, 503, 503]
    assert (read.status_code, read.headers["retry-after"]) == (503, "1")


async def test_a_database_that_is_migrated_later_is_used_then(empty_database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(empty_database_url, tmp_path)) as client:
        before = [(await client.get(path)).status_code for path in (LIVE, READY, USERS)]
        refused = await client.post(USERS, json={"email": "ada@example.org"})
        await asyncio.to_thread(upgrade, empty_database_url)
        await eventually(lambda: is_ready(client))
        await expect_work(client)

    assert before == [200, 503, 503]
    assert refused.status_code == 503


async def test_a_database_that_was_taken_back_is_not_ready(database_url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(downgrade, database_url, "base")

    async with running(make_settings(database_url, tmp_path)) as client:
        assert (await client.get(READY)).status_code == 503


async def start(url: str, folder: Path, *, encryption_key: str, blind_index_key: str | None = None) -> None:
    """A start and a stop. Raises ConfigurationError."""
    settings = make_settings(url, folder, encryption_key=encryption_key, blind_index_key=blind_index_key)
    application = Application(Resources(settings))
    try:
        await application.start()
    finally:
        await application.stop()


@pytest.mark.parametrize(
    ("first", "then", "remedy"),
    [
        pytest.param({"encryption_key": K1}, {"encryption_key": K2}, "BLIND_INDEX_KEY", id="another key"),
        pytest.param({"encryption_key": K1}, {"encryption_key": K2}, "keys blind-index", id="no former key"),
        pytest.param(
            {"encryption_key": K1, "blind_index_key": BLIND},
            {"encryption_key": K2, "blind_index_key": BLIND},
            "Restore the original key",
            id="missing key",
        ),
        pytest.param(
            {"encryption_key": K1, "blind_index_key": BLIND},
            {"encryption_key": K2.replace("k2:", "k1:"), "blind_index_key": BLIND},
            "Restore the original key",
            id="another key of the same name",
        ),
        pytest.param(
            {"encryption_key": K1},
            {"encryption_key": K1, "blind_index_key": BLIND},
            "Set BLIND_INDEX_KEY to the original key",
            id="another blind index key",
        ),
    ],
)
async def test_wrong_keys_are_refused_with_the_remedy_and_nothing_is_written(
    database_url: str,
    postgres: PostgresServer,
    tmp_path: Path,
    first: dict[str, str],
    then: dict[str, str],
    remedy: str,
) -> None:
    await start(database_url, tmp_path, **first)
    before = contents(postgres, database_url)

    with pytest.raises(ConfigurationError, match=remedy) as refusal:
        await start(database_url, tmp_path, **then)

    assert contents(postgres, database_url) == before
    assert not any(secret.partition(":")[2] in str(refusal.value) for secret in (K1, K2, BLIND))
    await start(database_url, tmp_path, **first)


def contents(postgres: PostgresServer, url: str) -> str:
    return postgres.execute(f'\\c "{url}"\nSELECT * FROM service_meta ORDER BY name; SELECT count(*) FROM users')


async def test_a_key_is_rotated_by_putting_the_new_one_first(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, encryption_key=K1)) as client:
        path = await client.make(given_name="Ada")
    async with running(make_settings(database_url, tmp_path, encryption_key=f"{K2},{K1}")) as client:
        old = await client.get(path)
        new = await client.make(given_name="Grace")
        found = await client.get(USERS, params={"email": old.json()["email"]})

    assert old.json()["given_name"] == "Ada"
    assert [user["id"] for user in found.json()["items"]] == [path.rpartition("/")[2]]
    with pytest.raises(ConfigurationError, match="k2"):
        await start(database_url, tmp_path, encryption_key=K1)
    assert new


@pytest.mark.parametrize("ring", [f"{K1},{K2}", f"{K2},{K1}"])
async def test_users_are_found_whatever_the_order_of_the_keys(database_url: str, tmp_path: Path, ring: str) -> None:
    async with running(make_settings(database_url, tmp_path, encryption_key=K1)) as client:
        path = await client.make(given_name="Ada", email="ada@example.org")

    async with running(make_settings(database_url, tmp_path, encryption_key=ring)) as client:
        by_email = await client.get(USERS, params={"email": "ada@example.org"})
        by_word = await client.get(USERS, params={"q": "ada"})
        again = await client.post(USERS, json={"email": "ada@example.org"})

    for found in (by_email, by_word):
        assert [user["id"] for user in found.json()["items"]] == [path.rpartition("/")[2]]
    assert again.status_code == 409


async def test_a_ring_in_another_order_waits_for_its_database(
    spare_url: str, spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    """Until the database says which, the index key of the last encryption key is taken; then the right one."""
    async with running(make_settings(spare_url, tmp_path, encryption_key=K1)) as client:
        await client.make(email="ada@example.org")
    with stopped(spare_postgres):
        application = Application(Resources(make_settings(spare_url, tmp_path, encryption_key=f"{K1},{K2}")))
        await application.start()
        await application.api.get()
    async with Client(application) as client:
        await eventually(lambda: is_ready(client))
        found = await client.get(USERS, params={"email": "ada@example.org"})
        again = await client.post(USERS, json={"email": "ada@example.org"})
    await application.stop()

    assert len(found.json()["items"]) == 1
    assert again.status_code == 409


async def test_of_two_first_starts_with_different_keys_at_most_one_is_accepted(
    database_url: str, tmp_path: Path
) -> None:
    results = await asyncio.gather(
        *(start(database_url, tmp_path, encryption_key=key) for key in (K1, K2)), return_exceptions=True
    )
    refused = [isinstance(result, ConfigurationError) for result in results]

    assert sorted(refused) == [False, True]
    await start(database_url, tmp_path, encryption_key=(K1, K2)[refused.index(False)])


async def test_wrong_keys_for_a_database_that_comes_later_never_become_ready(
    spare_url: str, spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    await start(spare_url, tmp_path, encryption_key=K1)
    with stopped(spare_postgres):
        application = Application(Resources(make_settings(spare_url, tmp_path, encryption_key=K2)))
        await application.start()
    verifying = application.resources.verifying
    assert verifying is not None
    async with asyncio.timeout(60):
        await verifying
    client = Client(application)
    responses = [(await client.get(path)).status_code for path in (LIVE, READY, USERS)]
    await client.aclose()
    await application.stop()

    assert responses == [200, 503, 503]
