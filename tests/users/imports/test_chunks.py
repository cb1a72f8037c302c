"""Chunks that go ahead of their turn: what comes of it is what would have come of one chunk after the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from support.running import eventually
from user_service.errors import NotFound
from user_service.postgres.pool import LOCK_TIMEOUT_SECONDS
from user_service.users.imports import chunks
from user_service.users.imports.chunks import CLEAN_CHUNKS, PATIENCE_SECONDS, Chunk, ImportMoved, ImportPipeline
from user_service.users.imports.runner import CHUNK

pytestmark = pytest.mark.anyio
NDJSON = {"Content-Type": "application/x-ndjson"}
IMPORTS = "/api/v1/users/imports"
USERS = "/api/v1/users"
# A row like another one, with keys of its own: what somebody else's transaction may hold.
TAKE = (
    "INSERT INTO users SELECT (jsonb_populate_record(u, jsonb_build_object("
    "'id', gen_random_uuid(), 'email_index', '\\x' || md5($1), 'external_id', $1))).* FROM users u LIMIT 1"
)

# The state of the service's sessions: one waits for a lock, one has written its change log and waits for its turn.
ACTIVITY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'user-service'"
)
BLOCKED = f"{ACTIVITY} AND wait_event_type = 'Lock'"
BLOCKED_PID = BLOCKED.replace("count(*)", "max(pid)")
ALL_WRITTEN = f"{ACTIVITY} AND state = 'idle in transaction' AND query LIKE 'COPY%user_changes%'"


def people(begin: int, count: int) -> list[dict[str, Any]]:
    numbers = range(begin, begin + count)
    return [{"email": f"u{number}@example.org", "external_id": f"u-{number}"} for number in numbers]


async def imported(client: httpx.AsyncClient, users: list[dict[str, Any]], on_conflict: str = "fail") -> dict[str, Any]:
    content = "".join(json.dumps(user) + "\n" for user in users).encode()
    answer = await client.post(f"{IMPORTS}?on_conflict={on_conflict}", content=content, headers=NDJSON)
    assert answer.status_code == 202
    found: dict[str, Any] = answer.json()
    assert (found["state"], found["position"]) == ("completed", len(users))
    return found


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def stranger(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def watcher(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database_url) as connection:
        yield connection


async def is_second_written(watcher: asyncpg.Connection) -> bool:
    """Whether the first chunk waits for a lock, and the second has gone ahead and waits for its turn."""
    return bool(await watcher.fetchval(BLOCKED) and await watcher.fetchval(ALL_WRITTEN))


@pytest.mark.parametrize(("on_conflict", "outcome"), [("fail", "failed"), ("skip", "skipped"), ("update", "updated")])
async def test_users_who_are_known_in_every_chunk(client: httpx.AsyncClient, on_conflict: str, outcome: str) -> None:
    users = people(0, 6 * CHUNK)
    known = [users[chunk * CHUNK + 700] for chunk in range(6)]
    assert (await imported(client, known))["created"] == 6
    found = await imported(client, [{**user, "given_name": "Ada"} for user in users], on_conflict)
    assert (found["created"], found[outcome]) == (6 * CHUNK - 6, 6)


async def test_a_key_that_an_earlier_chunk_lets_go_of_is_free_for_the_next(client: httpx.AsyncClient) -> None:
    await imported(client, [{"email": "old@example.org", "external_id": "moves"}])
    users = people(0, 2 * CHUNK)
    users[CHUNK - 1] = {"email": "new@example.org", "external_id": "moves"}
    users[CHUNK] = {"email": "old@example.org", "external_id": "comes"}
    found = await imported(client, users, "update")
    assert (found["created"], found["updated"], found["failed"]) == (2 * CHUNK - 1, 1, 0)
    (comes,) = (await client.get(USERS, params={"external_id": "comes"})).json()["items"]
    assert comes["email"] == "old@example.org"


async def test_the_first_of_two_in_neighbouring_chunks_is_created(client: httpx.AsyncClient) -> None:
    users = people(0, 2 * CHUNK)
    users[CHUNK + 1]["email"] = users[CHUNK - 2]["email"].upper()
    # No glance tells that these are the same.
    users[5]["email"], users[CHUNK + 5]["email"] = "ada@example.org", "\uff41da@example.org"
    answer = await imported(client, users)
    assert (answer["created"], answer["failed"]) == (2 * CHUNK - 2, 2)
    failures = (await client.get(f"{IMPORTS}/{answer['id']}/errors")).text.splitlines()
    assert [(json.loads(line)["record"], json.loads(line)["code"]) for line in failures] == [
        (CHUNK + 2, "email_taken"),
        (CHUNK + 6, "email_taken"),
    ]


async def test_a_deadlock_by_way_of_somebody_else_ends(
    client: httpx.AsyncClient,
    stranger: asyncpg.Connection,
    watcher: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first chunk waits for a stranger, the second for the first, and the stranger for the second."""
    assert PATIENCE_SECONDS < 2 < LOCK_TIMEOUT_SECONDS
    monkeypatch.setattr(chunks, "PATIENCE_SECONDS", 2.0)
    await imported(client, people(-1, 1))
    transaction = stranger.transaction()
    await transaction.start()
    await stranger.execute(TAKE, "u-5")
    importing = asyncio.create_task(imported(client, people(0, 2 * CHUNK)))

    await eventually(partial(is_second_written, watcher))
    await stranger.execute(TAKE, f"u-{CHUNK + 500}")
    await transaction.rollback()
    assert (await importing)["created"] == 2 * CHUNK


async def test_nothing_of_a_chunk_that_went_ahead_stays_when_the_one_before_fails(
    client: httpx.AsyncClient,
    stranger: asyncpg.Connection,
    watcher: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "PATIENCE_SECONDS", 60.0)
    await imported(client, people(-1, 1))
    content = "".join(json.dumps(user) + "\n" for user in people(0, 3 * CHUNK)).encode()
    headers = {**NDJSON, "Idempotency-Key": "cut"}

    transaction = stranger.transaction()
    await transaction.start()
    await stranger.execute(TAKE, "u-5")
    importing = asyncio.create_task(client.post(IMPORTS, content=content, headers=headers))
    await eventually(partial(is_second_written, watcher))
    await watcher.execute("SELECT pg_terminate_backend($1)", await watcher.fetchval(BLOCKED_PID))
    assert (await importing).status_code == 503
    await transaction.rollback()
    found = (await client.get(IMPORTS)).json()["items"][0]
    assert (found["state"], found["position"], found["created"]) == ("interrupted", 0, 0)
    assert await watcher.fetchval("SELECT count(*) FROM users") == 1
    again = await client.post(IMPORTS, content=content, headers=headers)
    assert (again.json()["id"], again.json()["created"]) == (found["id"], 3 * CHUNK)


def chunk_of(start: int, **record: object) -> Chunk:
    return Chunk(UUID(int=0), start, [{"external_id": str(start), **record}], b"")


def chain(count: int) -> list[Chunk]:
    """Chunks of one record each, one behind the other."""
    chunks = [chunk_of(start) for start in range(count)]
    chunks[0].lead(merges=False)
    for before, chunk in pairwise(chunks):
        chunk.follow(before)
    return chunks


class Standing:
    """A session in which the import stands at `position`."""

    def __init__(self, position: int) -> None:
        self.position = position

    async def execute(self, *_: object) -> "Standing":
        return self

    def scalar_one(self) -> int:
        return self.position


async def test_a_chunk_goes_ahead_only_of_one_that_has_no_key_of_its_own() -> None:
    first = chunk_of(0, email="ada@example.org")
    cases = {"grace@example.org": True, "ada@example.org": False}
    for email, expected in cases.items():
        second = chunk_of(1, email=email)
        second.follow(first)
        assert second.ahead is expected
    third = chunk_of(2, email=["no address"])
    third.follow(first)
    assert third.ahead


async def test_a_chunk_that_fails_stops_those_behind_it_and_nobody_else() -> None:
    """Even where somebody else has moved the import to where they begin."""

    async def fail() -> None:
        raise NotFound

    chunks = chain(4)
    failing = asyncio.create_task(fail())
    failing.add_done_callback(chunks[1].end)
    await asyncio.wait([failing])
    assert chunks[1].ended.is_set()
    await chunks[0].hold(Standing(0))  # type: ignore[arg-type]
    for chunk in chunks[2:]:
        with pytest.raises(ImportMoved):
            await chunk.hold(Standing(chunk.start))  # type: ignore[arg-type]
    chunks[0].ended.set()
    with pytest.raises(ImportMoved):
        await chunks[2].claim(Standing(2))  # type: ignore[arg-type]


async def test_a_task_that_never_ran_gives_its_turn_on() -> None:
    first, second = chain(2)
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(first.end)
    task.cancel()
    await asyncio.wait([task])
    assert second.turn.is_set()


async def test_chunks_go_ahead_again_after_a_few_that_met_nobody() -> None:
    chunks = chain(3)
    chunks[0].course.smooth = CLEAN_CHUNKS - 1
    chunks[0].ended.set()
    chunks[1].turn = asyncio.Event()
    claiming = asyncio.create_task(chunks[1].claim(Standing(1)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert not chunks[1].ahead
    chunks[1].turn.set()
    await claiming
    chunks[0].course.smooth = CLEAN_CHUNKS
    chunks[2].opening.set()
    await chunks[2].claim(Standing(0))  # type: ignore[arg-type]
    assert chunks[2].ahead


def test_an_outcome_that_depends_on_who_is_there() -> None:
    wrong = {"status": "failed", "error": {"code": "validation_failed"}}
    taken = {"status": "failed", "error": {"code": "email_taken"}}
    outcomes = [{"status": "created"}, {"status": "skipped"}, {"status": "updated"}, wrong, taken]
    assert [ImportPipeline().meets_nobody(result) for result in outcomes] == [True, False, False, True, False]
    # What was merged into a known user may have grown too large.
    assert not ImportPipeline(merges=True).meets_nobody(wrong)
