"""Changes of single users that one statement writes together."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from support.api import USERS, expect_problem, unique_email, user_url
from support.batch_service import BatchService
from user_service.encryption.blind_index import BlindIndex
from user_service.idempotency.requests import KeyedResponse
from user_service.idempotency.stored_responses import StoredResponse
from user_service.postgres.pool import PLANNER
from user_service.users import rules
from user_service.users.change_log import Change, Origin
from user_service.users.group_commit import Write, collect, with_parts, write_group
from user_service.users.identifiers import identifiers, search_terms
from user_service.users.model import User
from user_service.users.schemas import UserCreate, UserUpdate
from user_service.users.unit_of_work import UserDatabase


def origin(number: int = 1) -> Origin:
    return Origin(f"actor-{number}", f"request-{number}", f"00-{number:032x}-{'1' * 16}-01", f"reason {number}")


@pytest.fixture
def database(service: BatchService) -> UserDatabase:
    return service.client.resources.open_services().database


@asynccontextmanager
async def counted_statements(database: UserDatabase) -> AsyncIterator[list[int]]:
    """The sizes of the groups that are written meanwhile."""
    sizes: list[int] = []
    fetch = database.writes.fetch

    async def count(writes: list[Write]) -> Any:
        sizes.append(len(writes))
        return await fetch(writes)

    database.writes.fetch = count
    try:
        yield sizes
    finally:
        database.writes.fetch = fetch


async def create(database: UserDatabase, number: int, **fields: Any) -> User:
    body = UserCreate(**{"email": unique_email(), **fields})
    async with database.single_statement(origin(number)) as (users, _):
        (outcome,) = await users.create([body])
    return outcome.unwrap()


async def rename(database: UserDatabase, number: int, user_id: UUID, name: str) -> User:
    async with database.single_statement(origin(number)) as (users, _):
        (outcome,) = await users.update([(user_id, None, UserUpdate(given_name=name))])
    return outcome.unwrap()


def new_write(database: UserDatabase, *, index: BlindIndex | None = None, **fields: Any) -> Write:
    user = replace(rules.new_user(UserCreate(email=unique_email())), **fields)
    made_by = index or database.index
    change = Change(user, "created", ("email",))
    wanted, terms = identifiers(user, made_by), search_terms(user, made_by)
    return Write(change, origin(), datetime.now(UTC), made_by, wanted, (), terms, ())


async def write(database: UserDatabase, *writes: Write) -> list[bool]:
    written = await write_group(database.primary, writes, database.cipher, database.index)
    return [written.get(one, False) for one in writes]


async def test_a_group_is_one_statement_and_each_change_is_whole(service: BatchService, database: UserDatabase) -> None:
    old = [await create(database, number, given_name="Old", username=f"old-{number}") for number in range(3)]
    external_ids = [f"new-{number}" for number in range(9)]

    async with counted_statements(database) as sizes:
        made = await asyncio.gather(
            *(create(database, 10 + number, external_id=key) for number, key in enumerate(external_ids))
        )
        renamed = await asyncio.gather(
            *(rename(database, 20 + number, user.id, "New") for number, user in enumerate(old))
        )

    assert sizes == [9, 3]
    assert [user.external_id for user in made] == external_ids
    for place, user in enumerate([*made, *renamed]):
        number = 10 + place if place < len(made) else 20 + place - len(made)
        stored = (
            await service.client.get(user_url({"id": str(user.id)}), headers={"Cache-Control": "no-cache"})
        ).json()
        assert (stored["version"], stored["given_name"]) == (user.version, user.given_name)
        async with service.database.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT actor, request_id, traceparent, reason, type, status, changed_at FROM user_changes"
                " WHERE user_id = $1 AND version = $2",
                user.id,
                user.version,
            )
            queued = await connection.fetch("SELECT changed_at FROM outbox WHERE user_id = $1 ORDER BY seq", user.id)
        kind = "created" if place < len(made) else "updated"
        by = origin(number)
        assert tuple(row)[:6] == (by.actor, by.request_id, by.traceparent, by.reason, kind, "active")
        assert len(queued) == user.version
        assert queued[-1]["changed_at"] == row["changed_at"]
        assert await service.count(f"identifiers WHERE user_id = '{user.id}'") == 2
    found = await service.client.get(USERS, params={"q": "new"})
    assert {user["id"] for user in found.json()["items"]} == {str(user.id) for user in renamed}
    assert (await service.client.get(USERS, params={"q": "old"})).json()["items"] == []
    feed = (await service.client.get(f"{USERS}/changes", params={"limit": 100})).json()["items"]
    assert [change["version"] for change in feed] == [1] * 12 + [2] * 3


async def test_of_two_that_ask_for_one_address_one_gets_it(database: UserDatabase, service: BatchService) -> None:
    email = unique_email()

    responses = await asyncio.gather(
        *(service.client.post(USERS, json={"email": email}) for _ in range(4)),
        *(service.client.post(USERS, json={"email": unique_email()}) for _ in range(4)),
    )

    assert sorted(response.status_code for response in responses[:4]) == [201, 409, 409, 409]
    for response in responses[:4]:
        if response.status_code == 409:
            expect_problem(response, 409, "email_taken")
    assert [response.status_code for response in responses[4:]] == [201] * 4
    assert await service.count("users") == 5


async def test_changes_of_one_user_are_made_one_after_the_other(service: BatchService) -> None:
    (user_id,) = await service.make(1)
    metadata = [{f"key-{number}": "x"} for number in range(6)]

    responses = await asyncio.gather(
        *(service.client.patch(f"{USERS}/{user_id}", json={"metadata": some}) for some in metadata)
    )

    assert sorted(response.json()["version"] for response in responses) == [2, 3, 4, 5, 6, 7]
    assert set((await service.user(user_id))["metadata"]) >= {f"key-{number}" for number in range(6)}
    assert [version for version, _ in await service.read_changes(user_id)] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_key_takes_effect_once_in_a_group(service: BatchService) -> None:
    body, headers = {"email": unique_email()}, {"Idempotency-Key": "one-of-a-group"}

    responses = await asyncio.gather(*(service.client.post(USERS, json=body, headers=headers) for _ in range(5)))

    created = [response for response in responses if response.status_code == 201]
    assert created
    assert len({response.json()["id"] for response in created}) == 1
    for response in responses:
        if response.status_code != 201:
            expect_problem(response, 409, "idempotency_in_progress")
    assert await service.count("users") == 1
    again = await service.client.post(USERS, json=body, headers=headers)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")


async def test_keys_of_a_group_replay_their_own_responses(service: BatchService) -> None:
    bodies = [{"email": unique_email()} for _ in range(8)]

    async def send(place: int) -> dict[str, Any]:
        response = await service.client.post(USERS, json=bodies[place], headers={"Idempotency-Key": f"own-{place}"})
        assert response.status_code == 201
        user: dict[str, Any] = response.json()
        return user

    first = await asyncio.gather(*map(send, range(8)))
    again = await asyncio.gather(*map(send, range(8)))

    assert again == first
    assert [user["email"] for user in first] == [body["email"] for body in bodies]
    assert await service.count("users") == 8


async def test_a_locked_user_does_not_hold_back_the_others(service: BatchService) -> None:
    locked, *others = await service.make(4)

    async with service.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", locked)
        waiting = asyncio.create_task(service.client.post(f"{USERS}/{locked}/login"))
        responses = await asyncio.gather(*(service.client.post(f"{USERS}/{user_id}/login") for user_id in others))
        assert [response.status_code for response in responses] == [204] * 3
        await service.wait_for_lock_waiters()
        assert not waiting.done()
    assert (await waiting).status_code == 204
    assert (await service.user(locked))["version"] == 2


@asynccontextmanager
async def held_addresses(service: BatchService, database: UserDatabase, *emails: str) -> AsyncIterator[None]:
    """Another transaction has claimed these addresses meanwhile, and is rolled back."""
    async with service.database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        for email in emails:
            await connection.execute("INSERT INTO identifiers VALUES (1, $1, $2)", database.index.email(email), uuid4())
        try:
            yield
        finally:
            await transaction.rollback()


async def test_those_that_ask_for_held_addresses_do_not_hold_back_the_others(
    service: BatchService, database: UserDatabase
) -> None:
    users = await service.make(4)
    emails = [unique_email() for _ in range(2)]

    async with held_addresses(service, database, *emails):
        waiting = []
        for email in emails:
            waiting.append(asyncio.create_task(service.client.post(USERS, json={"email": email})))
            await service.wait_for_lock_waiters(count=len(waiting))
        responses = await asyncio.gather(*(service.client.post(f"{USERS}/{user_id}/login") for user_id in users))
        assert [response.status_code for response in responses] == [204] * 4
        assert not any(task.done() for task in waiting)
    assert [(await task).status_code for task in waiting] == [201, 201]


async def test_a_write_that_asks_for_a_held_address_is_left_to_a_transaction(
    service: BatchService, database: UserDatabase
) -> None:
    asking = new_write(database)

    async with held_addresses(service, database, asking.change.user.email):
        assert await write(database, asking) == [False]
        assert await write(database, asking, new_write(database)) == [False, False]

    assert await write(database, asking) == [True]


async def test_what_one_write_causes_does_not_fail_one_that_was_left_out(
    database: UserDatabase, service: BatchService
) -> None:
    bad = new_write(database, timezone="\0")

    assert await write(database, bad, replace(bad)) == [False, False]


async def test_what_one_write_causes_is_left_to_transactions(database: UserDatabase, service: BatchService) -> None:
    good, bad = new_write(database), new_write(database, status="no status")

    assert await write(database, good, bad) == [False, False]

    assert await service.count("users") == 0
    assert await service.count("identifiers") == 0
    assert await service.count("outbox") == 0
    assert await write(database, good) == [True]


def changed(database: UserDatabase, user: User) -> Write:
    after = replace(user, given_name="Ada", version=2)
    change = Change(after, "updated", ("given_name",))
    return Write(change, origin(), datetime.now(UTC), database.index, (), (), (), ())


async def test_an_overtaken_change_leaves_the_others(database: UserDatabase, service: BatchService) -> None:
    first, second = [await create(database, number) for number in range(2)]
    async with service.database.acquire() as connection:
        await connection.execute("UPDATE users SET version = version + 1 WHERE id = $1", first.id)

    assert await write(database, changed(database, first), changed(database, second), new_write(database)) == [
        False,
        True,
        True,
    ]

    assert [version for version, _ in await service.read_changes(str(first.id))] == [1]
    assert [version for version, _ in await service.read_changes(str(second.id))] == [1, 2]


async def test_what_another_index_has_made_is_left_out(database: UserDatabase, service: BatchService) -> None:
    other = BlindIndex(b"k" * 32)

    assert await write(database, new_write(database, index=other), new_write(database)) == [False, True]
    assert await write(database, new_write(database, index=other)) == [False]

    assert await service.count("users") == 1


async def test_a_taken_address_is_refused_and_the_others_of_its_group_are_written(service: BatchService) -> None:
    email = unique_email()
    (holder,) = await service.make(1, email=email)

    responses = await asyncio.gather(
        *(service.client.post(USERS, json={"email": address}) for address in (email, unique_email(), email))
    )

    assert [response.status_code for response in responses] == [409, 201, 409]
    expect_problem(responses[0], 409, "email_taken")
    found = (await service.client.get(USERS, params={"email": email})).json()["items"]
    assert [user["id"] for user in found] == [holder]


async def test_an_address_that_an_open_transaction_has_claimed_holds_back_its_own_create_only(
    service: BatchService,
) -> None:
    email = unique_email()
    (holder,) = await service.make(1, email=email)

    async with service.database.acquire() as connection:
        row = await connection.fetchrow("DELETE FROM identifiers WHERE user_id = $1 RETURNING kind, index", holder)
        async with connection.transaction():
            await connection.execute("INSERT INTO identifiers (kind, index, user_id) VALUES ($1, $2, $3)", *row, holder)
            waiting = asyncio.create_task(service.client.post(USERS, json={"email": email}))
            others = await asyncio.gather(
                *(service.client.post(USERS, json={"email": unique_email()}) for _ in range(8))
            )
            assert [response.status_code for response in others] == [201] * 8
            await service.wait_for_lock_waiters()
            assert not waiting.done()
        response = await waiting

    expect_problem(response, 409, "email_taken")
    assert await service.count("users") == 9


async def test_what_was_written_is_published_although_its_caller_was_cancelled(
    database: UserDatabase, service: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await create(database, 1)
    told: list[str] = []
    invalidated: list[Any] = []
    invalidate = database.cache.invalidate

    async def note(versions: Any) -> None:
        invalidated.append(dict(versions))
        await invalidate(versions)

    monkeypatch.setattr(database, "after_change", lambda: told.append("changed"))
    monkeypatch.setattr(database.cache, "invalidate", note)
    loads = [database.writes.load(one) for one in (changed(database, user), new_write(database))]
    await asyncio.sleep(0)
    loads[0].cancel()

    assert await loads[1]

    assert invalidated[0][user.id] == 2
    assert told == ["changed"]
    assert [version for version, _ in await service.read_changes(str(user.id))] == [1, 2]


SHAPES = [
    [kind for kind, is_there in zip(("create", "change"), there, strict=True) if is_there]
    for there in ((1, 0), (0, 1), (1, 1))
]


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read a table."""
    if "Relation Name" in plan and plan["Node Type"] != "ModifyTable":
        yield plan
    for inner in plan.get("Plans", ()):
        yield from scans(inner)


@pytest.mark.parametrize("kinds", SHAPES, ids="-".join)
@pytest.mark.parametrize("number", [1, 3])
async def test_a_plan_of_empty_tables_finds_rows_by_their_keys(
    database: UserDatabase, service: BatchService, kinds: list[str], number: int
) -> None:
    """Such a plan stays in use while the tables fill, until PostgreSQL analyses them."""
    group = []
    for kind in kinds:
        for _ in range(number):
            write = new_write(database, **({"version": 2} if kind == "change" else {}))
            freed = [b"\x01" + b"x" * 16] if kind == "change" else []
            key = KeyedResponse(write.change.user.id.bytes, b"fingerprint", StoredResponse(204, (), b""))
            group.append(replace(write, freed=freed, removed=[1, 2], keyed=key))
    parts, values = collect(group, database.cipher, database.index)
    statement = with_parts(parts)
    async with service.database.acquire() as connection:
        await connection.execute("VACUUM ANALYZE users, identifiers, user_terms, idempotency_keys")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, value in PLANNER.items():
            await connection.execute(f"SET {name} = '{value}'")
        (row,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.arguments(values))
        await connection.execute("RESET ALL")

    read = list(scans(json.loads(row[0])[0]["Plan"]))
    assert read
    for node in read:
        by_key = node.get("Index Cond", "")
        by_key += "".join(inner.get("Index Cond", "") for inner in node.get("Plans", ()))
        assert node["Node Type"] == "Tid Scan" or by_key, node
        if node["Relation Name"] in {"user_terms", "identifiers"} and node["Node Type"] != "Tid Scan":
            assert by_key.count("=") == 2, node
