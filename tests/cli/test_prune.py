"""`user-service prune` removes what is past its time, and nothing else"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.api import USERS
from support.application import Client, running
from support.process import command
from support.settings import make_settings
from user_service.postgres import retention

TABLES = ("user_changes", "outbox", "inbox", "idempotency_keys", "imports", "import_failures")
AGE = {
    "user_changes": "UPDATE user_changes SET changed_at = changed_at - $1::interval",
    "outbox": "UPDATE outbox SET changed_at = changed_at - $1::interval",
    "inbox": "UPDATE inbox SET processed_at = processed_at - $1::interval",
    "idempotency_keys": "UPDATE idempotency_keys SET expires_at = expires_at - $1::interval",
    "imports": "UPDATE imports SET updated_at = updated_at - $1::interval",
}


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Any]:
    """A database in which every table has rows of a moment ago."""
    async with running(make_settings(database_url, tmp_path)) as client:
        await leave_traces(client)
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def leave_traces(client: Client) -> None:
    items = [{"data": {"email": f"u{number}@example.org"}} for number in range(20)]
    await client.post(f"{USERS}/batch/create", json={"items": items}, headers={"Idempotency-Key": "k"})
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/tests",
        "type": "org.userservice.batch.find.v1",
        "data": {"ids": []},
    }
    await client.post("/events", json=event, headers={"Content-Type": "application/cloudevents+json"})
    await client.post(f"{USERS}/imports", content=b"{}\n{}\n", headers={"Content-Type": "application/x-ndjson"})


async def counts(database: Any) -> dict[str, int]:
    return {table: await database.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def age(database: Any, **days: int) -> None:
    for table, count in days.items():
        await database.execute(AGE[table], retention.timedelta(days=count))


async def test_what_is_young_stays(database: Any, database_url: str, tmp_path: Path) -> None:
    await age(database, user_changes=364, outbox=6, inbox=6, imports=29)
    before = await counts(database)

    done = command(tmp_path, "prune", DATABASE_URL=database_url)

    assert (done.returncode, done.stdout) == (
        0,
        "removed 0 replies, 0 responses, 0 failed records, 0 imports, 0 events, 0 months of changes\n",
    )
    assert await counts(database) == before
    assert set(before.values()) == {20, 1, 2}


async def test_what_is_old_goes_and_is_counted(database: Any, database_url: str, tmp_path: Path) -> None:
    await age(database, user_changes=400, outbox=8, inbox=8, idempotency_keys=2, imports=31)

    done = command(tmp_path, "prune", DATABASE_URL=database_url)

    assert (
        done.stdout == "removed 1 replies, 1 responses, 2 failed records, 1 imports, 20 events, 1 months of changes\n"
    )
    assert set((await counts(database)).values()) == {0}
    assert await database.fetchval("SELECT count(*) FROM users") == 20


async def test_the_change_log_is_kept_as_long_as_the_setting_says(
    database: Any, database_url: str, tmp_path: Path
) -> None:
    # The month of a change ends at most 31 days after it.
    await age(database, user_changes=7 + 32)

    refused = command(tmp_path, "prune", DATABASE_URL=database_url, AUDIT_RETENTION_DAYS="6")
    done = command(tmp_path, "prune", DATABASE_URL=database_url, AUDIT_RETENTION_DAYS="7")

    assert refused.returncode == 2
    assert "AUDIT_RETENTION_DAYS" in refused.stderr
    assert done.stdout.endswith(" 1 months of changes\n")
    assert (await counts(database))["user_changes"] == 0


def test_no_event_that_may_still_be_sent_can_be_removed() -> None:
    from user_service.settings import PARSERS

    shortest = next(days for days in range(1, 100) if parses(PARSERS["audit_retention_days"], str(days)))
    assert retention.timedelta(days=shortest) >= retention.EVENTS


def parses(parser: Any, text: str) -> bool:
    try:
        parser(text)
    except ValueError:
        return False
    return True


async def test_many_at_once_remove_each_month_once(database: Any, database_url: str, tmp_path: Path) -> None:
    await database.execute(
        "INSERT INTO user_changes (user_id, version, type, status, changed, actor, request_id, traceparent,"
        " changed_at, event_id) SELECT gen_random_uuid(), 1, 'created', 'active', '{}', 'a', 'r', 't',"
        " now() - interval '400 days' - n % 5 * interval '32 days', gen_random_uuid() FROM generate_series(1, 5000) n"
    )

    months = await database.fetchval(
        "SELECT count(DISTINCT date_trunc('month', changed_at AT TIME ZONE 'UTC')) FROM user_changes"
        " WHERE changed_at < now() - interval '400 days'"
    )

    def prune(_: int) -> int:
        done = command(tmp_path, "prune", DATABASE_URL=database_url)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-4])

    with ThreadPoolExecutor(3) as pool:
        removed = list(pool.map(prune, range(3)))

    assert sum(removed) == months
    assert (await counts(database))["user_changes"] == 20


async def test_a_removed_log_leaves_the_next_change_its_place(database: Any, database_url: str, tmp_path: Path) -> None:
    (user_id,) = await database.fetchrow("SELECT id FROM users ORDER BY id LIMIT 1")
    await age(database, user_changes=400)
    command(tmp_path, "prune", DATABASE_URL=database_url)

    async with running(make_settings(database_url, tmp_path)) as client:
        assert (await client.patch(f"{USERS}/{user_id}", json={"locale": "fr"})).status_code == 200
        (item,) = (await client.get(f"{USERS}/{user_id}/audit")).json()["items"]

    assert (item["version"], item["type"]) == (2, "updated")


def test_a_database_that_is_not_migrated_or_away_is_said_to_be(empty_database_url: str, tmp_path: Path) -> None:
    bare = command(tmp_path, "prune", DATABASE_URL=empty_database_url)
    away = command(tmp_path, "prune", DATABASE_URL="postgresql://127.0.0.1:1/users")

    assert (bare.returncode, away.returncode) == (1, 1)
    # One remedy, not two.
    assert "user-service migrate" in bare.stderr
    assert "user-service doctor" not in bare.stderr
    assert "user-service doctor" in away.stderr


async def test_users_deleted_long_ago_are_purged_each_with_a_change_and_an_event(
    database_url: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(database_url)
    async with running(make_settings(database_url, tmp_path)) as client:
        paths = [await client.make(given_name="Ada", family_name="Lovelace") for _ in range(6)]
        living, recent, old, erased, restored, late = paths
        for path in (recent, old, restored, late):
            assert (await client.delete(path, headers={"Idempotency-Key": path})).status_code == 204
        assert (await client.post(f"{erased}/erase")).status_code == 204
        await connection.execute(
            "UPDATE users SET deleted_at = now() - interval '31 days' WHERE id = ANY ($1) AND deleted_at IS NOT NULL",
            [path[-36:] for path in (old, erased, restored)],
        )
        await connection.execute("UPDATE users SET deleted_at = now() - interval '29 days' WHERE id = $1", late[-36:])
        assert (await client.post(f"{restored}/restore")).status_code == 200

        kept = command(tmp_path, "prune", DATABASE_URL=database_url)
        done = command(tmp_path, "prune", DATABASE_URL=database_url, DELETED_RETENTION_DAYS="30")
        again = command(tmp_path, "prune", DATABASE_URL=database_url, DELETED_RETENTION_DAYS="30")

        assert "users" not in kept.stdout
        assert done.stdout.startswith("removed 2 deleted users, "), done.stderr
        assert again.stdout.startswith("removed 0 deleted users, ")
        assert {str(row[0]) for row in await connection.fetch("SELECT id FROM users")} == {
            path[-36:] for path in (living, recent, restored, late)
        }
        for path in (old, erased):
            audit = (await client.get(f"{path}/audit")).json()["items"]
            assert {change["request_id"] for change in audit} == {None}
            last = audit[-1]
            assert (last["type"], last["version"], last["actor"]) == ("purged", 3, "retention")
            assert (
                await connection.fetchval("SELECT count(*) FROM outbox WHERE user_id = $1 AND version = 3", path[-36:])
                == 1
            )
        feed = (await client.get(f"{USERS}/changes", params={"type": "purged"})).json()["items"]
        assert {item["user_id"] for item in feed} == {old[-36:], erased[-36:]}
        assert await connection.fetchval("SELECT count(*) FROM user_terms WHERE user_id = $1", old[-36:]) == 0
    await connection.close()


async def test_more_deleted_users_than_one_batch_are_purged_once_by_several(database_url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database_url)
    async with running(make_settings(database_url, tmp_path)) as client:
        items = [{"data": {"email": f"u{number}@example.org"}} for number in range(250)]
        made = (await client.post(f"{USERS}/batch/create", json={"items": items})).json()["items"]
        await client.post(f"{USERS}/batch/delete", json={"items": [{"id": item["id"]} for item in made]})
    await connection.execute("UPDATE users SET deleted_at = deleted_at - interval '10 days'")

    def prune(_: int) -> int:
        done = command(tmp_path, "prune", DATABASE_URL=database_url, DELETED_RETENTION_DAYS="7")
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[1])

    with ThreadPoolExecutor(2) as pool:
        assert sum(await asyncio.to_thread(list, pool.map(prune, range(2)))) == 250
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    assert await connection.fetchval("SELECT count(*) FROM user_changes WHERE type = 'purged'") == 250
    await connection.close()


def test_a_purge_with_other_keys_is_refused(database_url: str, tmp_path: Path) -> None:
    with_key = {"DATABASE_URL": database_url, "DELETED_RETENTION_DAYS": "7"}
    assert command(tmp_path, "prune", **with_key).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    refused = command(other, "prune", **with_key, ENCRYPTION_KEY=f"other:{b64encode(bytes(range(32))).decode()}")
    assert refused.returncode == 2
    assert "BLIND_INDEX_KEY" in refused.stderr
