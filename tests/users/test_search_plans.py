"""Every page of the list walks an index: what PostgreSQL plans for each kind of query over many users."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from benchmarks.fill import FIRST_MILLISECOND, fill
from benchmarks.people import names
from sqlalchemy import and_

from support.servers import PostgresServer
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.postgres.pool import PLANNER
from user_service.postgres.selects import compile_with_values
from user_service.postgres.session import Session
from user_service.postgres.tables import users
from user_service.users.conditions import (
    EVERYONE,
    All,
    AnyOf,
    Comparison,
    Condition,
    ExternalIdStarts,
    HasStatus,
    Key,
    Named,
    Not,
    Time,
    TimeIs,
    follows_updates,
)
from user_service.users.cursors import Cursor
from user_service.users.directory import DirectoryQuery, DirectorySearch, clause, page_statement
from user_service.users.search import UserSearch
from user_service.users.search_query import SearchQuery
from user_service.values.ids import time_at
from user_service.values.name_words import prefixes

USERS = 20_000
MIDDLE = time_at(FIRST_MILLISECOND + USERS // 2)
GIVEN, FAMILY = names(USERS // 2)
BEGINNINGS = UserSearch(
    None,  # type: ignore[arg-type]
    Cipher({"k": bytes(range(32))}),
    BlindIndex(bytes(32), stores_prefixes=True, finds_prefixes=True),
)
SEARCH = UserSearch(None, Cipher({"k": bytes(range(32))}), BlindIndex(bytes(32)))  # type: ignore[arg-type]
FILTERS = {
    "everybody": SearchQuery(),
    "email": SearchQuery(email="ada@example.org"),
    "external_id": SearchQuery(external_id="list-7"),
    "username": SearchQuery(username="ada"),
    "phone": SearchQuery(phone="+493000000007"),
    "suspended": SearchQuery(status="suspended"),
    "active": SearchQuery(status="active"),
    "deleted": SearchQuery(status="deleted"),
    "word": SearchQuery(q=FAMILY),
    "words": SearchQuery(q=f"{GIVEN} {FAMILY}"),
    "beginning": SearchQuery(q=GIVEN[:3]),
    "beginnings": SearchQuery(q=f"{GIVEN[:3]} {FAMILY[:4]}"),
    "part": SearchQuery(q="山田太郎"),
    "email_domain": SearchQuery(email_domain="example.org"),
    "common pair": SearchQuery(metadata={"plan": "team"}),
    "pairs": SearchQuery(metadata={"plan": "team", "seats": "7"}),
    "word and pair": SearchQuery(q=GIVEN, metadata={"seats": "7"}),
    "created_after": SearchQuery(created_after=MIDDLE),
    "created_before": SearchQuery(created_before=MIDDLE),
    "updated_after": SearchQuery(updated_after=MIDDLE + timedelta(seconds=USERS / 4_000)),
}
SORTS = ("created_at", "-created_at", "updated_at", "-updated_at")
BEHIND = Cursor(MIDDLE, UUID(int=((FIRST_MILLISECOND + USERS // 2) << 80) + (7 << 76)))
OF_USERS = {"users", "identifiers", "user_terms"}


@pytest.fixture(scope="module")
def many_users(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    yield postgres.create_database("plans", template=migrated_template)
    postgres.drop_database("plans")


@pytest.fixture(scope="module")
async def connection(many_users: str) -> AsyncIterator[asyncpg.Connection]:
    await fill(many_users, SEARCH.index, USERS)
    connection = await asyncpg.connect(many_users, server_settings=PLANNER)
    await fill_beginnings(connection)
    yield connection
    await connection.close()


async def fill_beginnings(connection: asyncpg.Connection) -> None:
    """The terms of the beginnings of all words."""
    index = BEGINNINGS.index
    words = {word.lower() for number in range(USERS) for word in names(number)}
    pairs = [(index.word(word), index.hash_prefix(prefix)) for word in words for prefix in prefixes([word])]
    await connection.execute(
        "INSERT INTO user_terms SELECT v.prefix, user_id FROM user_terms JOIN unnest($1::bigint[], $2::bigint[])"
        " AS v(word, prefix) ON term = v.word ON CONFLICT DO NOTHING",
        *map(list, zip(*pairs, strict=True)),
    )
    await connection.execute("ANALYZE user_terms")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def explain(connection: asyncpg.Connection, sql: str, *values: Any) -> list[dict[str, Any]]:
    (row,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {sql}", *values)
    return list(nodes(json.loads(row[0])[0]["Plan"]))


def read_whole(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"} & OF_USERS


@pytest.mark.parametrize("search", [SEARCH, BEGINNINGS], ids=["whole words", "beginnings"])
@pytest.mark.parametrize("filters", FILTERS)
async def test_no_page_reads_a_whole_table(connection: asyncpg.Connection, filters: str, search: UserSearch) -> None:
    whole = {}
    for sort, cursor, deleted in product(SORTS, (None, BEHIND), (False, True)):
        query = FILTERS[filters]._replace(sort=sort, cursor=cursor, include_deleted=deleted)
        sql, values = search.statement(query)
        async with Session(connection).planned_for_values():
            plan = await explain(connection, sql, *values)
        assert any("Index" in node["Node Type"] for node in plan)
        if tables := read_whole(plan):
            whole[sort, cursor is not None, deleted] = tables

    assert whole == {}


REPEATED = {
    "words": SearchQuery(q=f"{GIVEN} {FAMILY}"),
    "beginnings": SearchQuery(q=f"{GIVEN[:3]} {FAMILY[:4]}"),
    "word and pair": SearchQuery(q=GIVEN, metadata={"seats": "7"}),
    "suspended": SearchQuery(status="suspended"),
    "created_after": SearchQuery(created_after=MIDDLE),
    "updated_after": SearchQuery(updated_after=MIDDLE, sort="-created_at"),
}


@pytest.mark.parametrize("filters", REPEATED)
async def test_searches_are_planned_for_their_values_however_often_they_run(
    connection: asyncpg.Connection, many_users: str, filters: str
) -> None:
    """PostgreSQL may keep one plan for all values after five executions of a prepared statement."""
    query = REPEATED[filters]._replace(counted=True)
    searching = await asyncpg.connect(many_users, server_settings=PLANNER)
    search = UserSearch(Session(searching), BEGINNINGS.cipher, BEGINNINGS.index)
    for _ in range(8):
        await search.page(query)
        async with searching.transaction():
            # Nothing that has to be decrypted.
            assert [part async for part in search.all_users(query._replace(username="ada"))] == []
    plans = await searching.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE custom_plans > 4"
    )
    await searching.close()

    assert [tuple(row) for row in plans] == [(0, 8)] * 3


@pytest.mark.parametrize("condition", ["active", "inactive", "created", "updated and active", "external id begins"])
async def test_conditions_are_planned_for_their_values_however_often_they_are_read(
    connection: asyncpg.Connection, many_users: str, condition: str
) -> None:
    query = DirectoryQuery(condition=CONDITIONS[condition], limit=0)
    searching = await asyncpg.connect(many_users, server_settings=PLANNER)
    search = DirectorySearch(Session(searching), BEGINNINGS.cipher, BEGINNINGS.index)
    for _ in range(8):
        assert (await search.page(query)).total
    plans = await searching.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE custom_plans > 4"
    )
    await searching.close()

    assert [tuple(row) for row in plans] == [(0, 8)]


async def test_a_count_that_takes_too_long_leaves_the_connection_usable(
    connection: asyncpg.Connection, many_users: str
) -> None:
    searching = await asyncpg.connect(many_users, server_settings=PLANNER)
    search = UserSearch(Session(searching), BEGINNINGS.cipher, BEGINNINGS.index)
    async with connection.transaction():
        await connection.execute("LOCK TABLE user_terms")
        assert await search.count(REPEATED["words"], seconds=0.2) is None
        assert not searching.is_in_transaction()
        assert await searching.fetchval("SHOW plan_cache_mode") == "auto"
    assert await search.count(REPEATED["words"], seconds=5) == 1
    await searching.close()


async def test_a_table_that_is_read_whole_is_noticed(connection: asyncpg.Connection) -> None:
    plan = await explain(connection, "SELECT * FROM users WHERE locale = 'en-GB'")

    assert read_whole(plan) == {"users"}


async def test_what_was_filled_is_what_a_search_finds(connection: asyncpg.Connection) -> None:
    sql, values = SEARCH.statement(SearchQuery(q=f"{GIVEN} {FAMILY}", metadata={"plan": "team"}))

    assert f"list-{USERS // 2}" in [row["external_id"] for row in await connection.fetch(sql, *values)]


async def test_beginnings_find_what_was_filled(connection: asyncpg.Connection) -> None:
    query = SearchQuery(q=f"{GIVEN[:3]} {FAMILY[:4]}", metadata={"plan": "team"}, limit=200)
    sql, values = BEGINNINGS.statement(query)

    found = {row["external_id"] for row in await connection.fetch(sql, *values)}
    whole, values = SEARCH.statement(query)
    assert f"list-{USERS // 2}" in found
    assert await connection.fetch(whole, *values) == []


NAMED = Named(Key.USERNAME, "ada")
NAMED_IDS = {NAMED: {BEHIND.id}}
RECENT = TimeIs(Time.UPDATED, Comparison.AT_LEAST, MIDDLE + timedelta(seconds=USERS / 4_000))
CONDITIONS: dict[str, Condition] = {
    "everyone": EVERYONE,
    "named": NAMED,
    "not named": Not(NAMED),
    "named or another": AnyOf((NAMED, Named(Key.EMAIL, "x"))),
    "external id begins": ExternalIdStarts("list-1"),
    "has an external id": ExternalIdStarts(""),
    "active": HasStatus(frozenset({"active"})),
    "inactive": HasStatus(frozenset({"pending", "suspended"})),
    "created": TimeIs(Time.CREATED, Comparison.LESS, MIDDLE),
    "updated": RECENT,
    "updated and active": All((RECENT, HasStatus(frozenset({"active"})))),
}


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_no_page_of_a_condition_reads_a_whole_table(connection: asyncpg.Connection, condition: str) -> None:
    whole = {}
    ids = defaultdict[Named, set[UUID]](set, NAMED_IDS)
    by_update = follows_updates(CONDITIONS[condition])
    for descending, cursor, offset in product((False, True), (None, BEHIND), (0, 100)):
        query = DirectoryQuery(
            condition=CONDITIONS[condition],
            by_update=by_update,
            descending=descending,
            cursor=cursor,
            offset=0 if cursor else offset,
            limit=50,
        )
        matching = and_(users.c.deleted_at.is_(None), clause(query.condition, ids))
        statement, values = compile_with_values(page_statement(query, matching))
        plan = await explain(connection, statement.sql, *statement.arguments(values))
        if found := read_whole(plan):
            whole[descending, cursor is not None, offset] = found
    assert whole == {}
