"""Imports of several chunks, of which one starts first: the result is that of applying one chunk after the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from support.api import USERS
from support.application import started
from support.waiting import eventually
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.encryption.blind_index import EXTERNAL_ID
from user_service.postgres.pool import LOCK_TIMEOUT_SECONDS
from user_service.settings import Settings
from user_service.users.imports.chunks import Chunk, ChunkTransaction
from user_service.users.imports.pipeline import TURN_TIMEOUT_SECONDS, Pipeline
from user_service.users.imports.runner import CHUNK_RECORDS

pytestmark = pytest.mark.anyio
NDJSON = {"Content-Type": "application/x-ndjson"}
IMPORTS = "/api/v1/users/imports"
# An external id that another transaction claims.
TAKE = f"INSERT INTO identifiers (kind, index, user_id) VALUES ({EXTERNAL_ID}, $1, gen_random_uuid())"

# The state of the service's sessions: one waits for a lock, one has written its change log and waits for its turn.
ACTIVITY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'user-service'"
)
BLOCKED = f"{ACTIVITY} AND wait_event_type = 'Lock'"
BLOCKED_PID = BLOCKED.replace("count(*)", "max(pid)")
ALL_WRITTEN = f"{ACTIVITY} AND state = 'idle in transaction' AND query LIKE 'WITH logged AS (INSERT INTO user_changes%'"


def people(begin: int, count: int) -> list[dict[str, Any]]:
    numbers = range(begin, begin + count)
    return [{"email": f"u{number}@example.org", "external_id": f"u-{number}"} for number in numbers]


async def imported(client: httpx.AsyncClient, users: list[dict[str, Any]], on_conflict: str = "fail") -> dict[str, Any]:
    content = "".join(json.dumps(user) + "\n" for user in users).encode()
    response = await client.post(f"{IMPORTS}?on_conflict={on_conflict}", content=content, headers=NDJSON)
    assert response.status_code == 202
    found: dict[str, Any] = response.json()
    assert (found["state"], found["position"]) == ("completed", len(users))
    return found


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def other_session(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def watcher(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database_url) as connection:
        yield connection


async def is_second_written(watcher: asyncpg.Connection) -> bool:
    """Whether the first chunk waits for a lock, and the second has started first and waits for its turn."""
    return bool(await watcher.fetchval(BLOCKED) and await watcher.fetchval(ALL_WRITTEN))


@pytest.mark.parametrize(("on_conflict", "outcome"), [("fail", "failed"), ("skip", "skipped"), ("update", "updated")])
async def test_users_that_exist_already_in_every_chunk(
    client: httpx.AsyncClient, on_conflict: str, outcome: str
) -> None:
    users = people(0, 6 * CHUNK_RECORDS)
    known = [users[chunk * CHUNK_RECORDS + 700] for chunk in range(6)]
    assert (await imported(client, known))["created"] == 6
    found = await imported(client, [{**user, "given_name": "Ada"} for user in users], on_conflict)
    assert (found["created"], found[outcome]) == (6 * CHUNK_RECORDS - 6, 6)


async def test_a_key_that_an_earlier_chunk_releases_is_free_for_the_next(client: httpx.AsyncClient) -> None:
    await imported(client, [{"email": "old@example.org", "external_id": "moves"}])
    users = people(0, 2 * CHUNK_RECORDS)
    users[CHUNK_RECORDS - 1] = {"email": "new@example.org", "external_id": "moves"}
    users[CHUNK_RECORDS] = {"email": "old@example.org", "external_id": "comes"}
    found = await imported(client, users, "update")
    assert (found["created"], found["updated"], found["failed"]) == (2 * CHUNK_RECORDS - 1, 1, 0)
    (comes,) = (await client.get(USERS, params={"external_id": "comes"})).json()["items"]
    assert comes["email"] == "old@example.org"


async def test_the_first_of_two_in_neighbouring_chunks_is_created(client: httpx.AsyncClient) -> None:
    users = people(0, 2 * CHUNK_RECORDS)
    users[CHUNK_RECORDS + 1]["email"] = users[CHUNK_RECORDS - 2]["email"].upper()
    # No glance tells that these are the same.
    users[5]["email"], users[CHUNK_RECORDS + 5]["email"] = "ada@example.org", "\uff41da@example.org"
    response = await imported(client, users)
    assert (response["created"], response["failed"]) == (2 * CHUNK_RECORDS - 2, 2)
    failures = (await client.get(f"{IMPORTS}/{response['id']}/errors")).text.splitlines()
    assert [(json.loads(line)["record"], json.loads(line)["code"]) for line in failures] == [
        (CHUNK_RECORDS + 2, "email_taken"),
        (CHUNK_RECORDS + 6, "email_taken"),
    ]


async def test_a_deadlock_through_another_transaction_ends(
    settings: Settings,
    other_session: asyncpg.Connection,
    watcher: asyncpg.Connection,
) -> None:
    """The first chunk waits for the other session, the second for the first, and the other session for the second."""
    assert TURN_TIMEOUT_SECONDS < 2 < LOCK_TIMEOUT_SECONDS
    application = Application(Resources(settings, turn_timeout_seconds=2.0))
    async with started(application) as client:
        await imported(client, people(-1, 1))
        transaction = other_session.transaction()
        await transaction.start()
        await other_session.execute(TAKE, b"u-5")
        importing = asyncio.create_task(imported(client, people(0, 2 * CHUNK_RECORDS)))

        await eventually(partial(is_second_written, watcher))
        await other_session.execute(TAKE, f"u-{CHUNK_RECORDS + 500}".encode())
        await transaction.rollback()
        assert (await importing)["created"] == 2 * CHUNK_RECORDS


async def test_a_chunk_that_started_first_is_rolled_back_when_the_one_before_fails(
    settings: Settings,
    other_session: asyncpg.Connection,
    watcher: asyncpg.Connection,
) -> None:
    application = Application(Resources(settings, turn_timeout_seconds=60.0))
    async with started(application) as client:
        await imported(client, people(-1, 1))
        content = "".join(json.dumps(user) + "\n" for user in people(0, 3 * CHUNK_RECORDS)).encode()
        headers = {**NDJSON, "Idempotency-Key": "cut"}

        transaction = other_session.transaction()
        await transaction.start()
        await other_session.execute(TAKE, b"u-5")
        importing = asyncio.create_task(client.post(IMPORTS, content=content, headers=headers))
        await eventually(partial(is_second_written, watcher))
        await watcher.execute("SELECT pg_terminate_backend($1)", await watcher.fetchval(BLOCKED_PID))
        assert (await importing).status_code == 503
        await transaction.rollback()
        found = (await client.get(IMPORTS)).json()["items"][0]
        assert (found["state"], found["position"], found["created"]) == ("interrupted", 0, 0)
        assert await watcher.fetchval("SELECT count(*) FROM users") == 1
        again = await client.post(IMPORTS, content=content, headers=headers)
        assert (again.json()["id"], again.json()["created"]) == (found["id"], 3 * CHUNK_RECORDS)


def test_clean_results_do_not_depend_on_existing_users() -> None:
    invalid = {"status": "failed", "error": {"code": "validation_failed"}}
    taken = {"status": "failed", "error": {"code": "email_taken"}}
    results = [{"status": "created"}, {"status": "skipped"}, {"status": "updated"}, invalid, taken]
    chunk = Chunk(UUID(int=0), 0, [], b"")
    turn = Pipeline().next_turn(chunk.keys)
    creating, merging = (ChunkTransaction(chunk, turn, on_conflict=value) for value in ("fail", "update"))

    assert [creating.is_clean(result) for result in results] == [True, False, False, True, False]
    # A merge into an existing user may have exceeded a limit.
    assert not merging.is_clean(invalid)


def test_the_keys_of_a_chunk_are_the_unique_fields_that_are_text() -> None:
    records = [
        {"email": "ada@example.org", "external_id": "1", "username": "ada", "aliases": ["ada@example.com", 7]},
        {"email": ["no address"], "given_name": "Ada", "aliases": "no list"},
    ]

    chunk = Chunk(UUID(int=0), 0, list(enumerate(records, 1)), b"")
    assert chunk.keys == {"ada@example.org", "1", "ada", "ada@example.com"}
