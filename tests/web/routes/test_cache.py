"""`/api/v1/cache`, and `Cache-Control: no-cache`."""

from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.servers import PostgresServer
from support.settings import make_settings
from user_service.users.reader import WARMED_AT_ONCE

CACHE = "/api/v1/cache"
BEHIND = 'UPDATE users SET metadata = \'{"changed": "behind"}\''


@pytest.fixture(params=["memory", "redis", "none"])
def options(request: pytest.FixtureRequest, redis_url: str) -> dict[str, str]:
    return {"memory": {}, "redis": {"redis_url": redis_url}, "none": {"cache": "none"}}[request.param]


def change_behind(postgres: PostgresServer, database_url: str) -> None:
    """Changes the users where the service does not notice."""
    postgres.execute(f"\\c {database_url}\n{BEHIND};")


async def read_metadata(client: Client, path: str, **headers: str) -> dict[str, str]:
    response = await client.get(path, headers=headers)
    assert response.status_code == 200
    metadata: dict[str, str] = response.json()["metadata"]
    return metadata


@pytest.mark.parametrize("directive", ["no-cache", "max-age=0, No-Cache"])
async def test_no_cache_goes_to_the_database(
    database_url: str, postgres: PostgresServer, tmp_path: Path, directive: str
) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        path = await client.make()
        await client.get(path)
        change_behind(postgres, database_url)
        cached = await read_metadata(client, path)
        fresh = await read_metadata(client, path, **{"Cache-Control": directive})
        afterwards = await read_metadata(client, path)

    assert cached == {}
    assert fresh == afterwards == {"changed": "behind"}


@pytest.mark.parametrize("path", [f"{USERS}?limit=50", f"{USERS}?email=ada@example.org", f"{USERS}?fields=metadata"])
async def test_lists_use_cached_users_of_the_rows_version_unless_the_request_says_no_cache(
    database_url: str, postgres: PostgresServer, tmp_path: Path, path: str
) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        user = await client.make(email="ada@example.org")
        await client.get(user)
        change_behind(postgres, database_url)
        listed = (await client.get(path)).json()["items"]
        fresh = (await client.get(path, headers={"Cache-Control": "no-cache"})).json()["items"]
        await client.patch(user, json={"metadata": {"later": 1}})
        changed = (await client.get(path)).json()["items"]

    assert [item["metadata"] for item in listed] == [{"changed": "behind"} if "fields" in path else {}]
    assert [item["metadata"] for item in fresh] == [{"changed": "behind"}]
    assert [item["metadata"] for item in changed] == [{"changed": "behind", "later": 1}]


async def test_a_batch_find_uses_cached_users_unless_the_request_says_no_cache(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    keys = {"emails": ["ada@example.org"]}
    async with running(make_settings(database_url, tmp_path)) as client:
        await client.get(await client.make(email="ada@example.org"))
        change_behind(postgres, database_url)
        found = await client.post(f"{USERS}/batch/find", json=keys)
        fresh = await client.post(f"{USERS}/batch/find", json=keys, headers={"Cache-Control": "no-cache"})
        afterwards = await client.post(f"{USERS}/batch/find", json=keys)

    responses = [response.json()["found"][0]["metadata"] for response in (found, fresh, afterwards)]
    assert responses == [{}, {"changed": "behind"}, {"changed": "behind"}]


async def test_statistics_name_the_tier_and_count(database_url: str, tmp_path: Path, options: dict[str, str]) -> None:
    async with running(make_settings(database_url, tmp_path, **options)) as client:
        path = await client.make()
        await client.get(path)
        await client.get(path)
        response = await client.get(CACHE)

    found = response.json()
    assert response.status_code == 200
    assert found["tier"] == client.resources.cache.tier
    assert found["hits"] + found["misses"] == 2
    assert found["errors"] == sum(client.resources.metrics.cache_errors.values.values())


async def test_warm_reads_many_in_several_steps_and_counts_those_that_it_could_read(
    postgres: PostgresServer, database_url: str, tmp_path: Path
) -> None:
    items = [{"data": {"email": f"u{number}@example.org"}} for number in range(2 * WARMED_AT_ONCE + 1)]
    async with running(make_settings(database_url, tmp_path)) as client:
        made = (await client.post(f"{USERS}/batch/create", json={"items": items})).json()["items"]
        paths = [f"{USERS}/{item['id']}" for item in made]
        broken = made[WARMED_AT_ONCE + 1]["id"]
        postgres.execute(f"\\c {database_url}\nUPDATE users SET personal = '\\x00' WHERE id = '{broken}';")
        warmed = await client.post(f"{CACHE}/warm")
        cached = [await client.is_cached(path) for path in paths]

    assert warmed.json() == {"warmed": 2 * WARMED_AT_ONCE}
    assert [path for path, is_cached in zip(paths, cached, strict=True) if not is_cached] == [f"{USERS}/{broken}"]


async def test_warm_reads_the_last_changed_into_the_cache(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        old, changed, deleted = [await client.make() for _ in range(3)]
        await client.patch(changed, json={"given_name": "Ada"})
        await client.delete(deleted)
        one = await client.post(f"{CACHE}/warm", params={"limit": 1})
        cached_of_one = [await client.is_cached(path) for path in (changed, deleted)]
        all_living = await client.post(f"{CACHE}/warm")
        cached_of_all = await client.is_cached(old)
        refused = await client.post(f"{CACHE}/warm", params={"limit": 10_001})

    assert (one.json(), all_living.json()) == ({"warmed": 1}, {"warmed": 2})
    assert cached_of_one == [True, False]
    assert cached_of_all
    assert refused.status_code == 422


async def test_clear_drops_what_was_cached(database_url: str, tmp_path: Path, options: dict[str, str]) -> None:
    async with running(make_settings(database_url, tmp_path, **options)) as client:
        path = await client.make()
        await client.get(path)
        response = await client.delete(CACHE)
        cached = await client.is_cached(path)
        still_there = await client.get(path)

    assert response.status_code == 200
    assert response.json().keys() == {"dropped"}
    assert not cached
    assert still_there.status_code == 200


async def test_a_purged_and_a_deleted_user_leave_the_cache(
    database_url: str, tmp_path: Path, options: dict[str, str]
) -> None:
    async with running(make_settings(database_url, tmp_path, **options)) as client:
        deleted, purged = await client.make(), await client.make()
        await client.get(deleted)
        await client.get(purged)
        await client.delete(deleted)
        await client.delete(purged, params={"purge": "true"})
        statuses = [
            (await client.get(path, params=query)).status_code
            for path in (deleted, purged)
            for query in ({}, {"include": "deleted"})
        ]

    assert statuses == [404, 200, 404, 404]


async def test_the_cache_needs_a_key(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        client.headers.pop("X-API-Key")
        responses = [await client.get(CACHE), await client.delete(CACHE), await client.post(f"{CACHE}/warm")]

    assert [response.status_code for response in responses] == [401, 401, 401]
