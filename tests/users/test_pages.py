"""Pages of users of whom the cache has all, some or none."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from support.settings import ENCRYPTION_KEY
from user_service.cache.base import Cache, Entry, NoCache
from user_service.cache.memory import MemoryCache
from user_service.encryption.cipher import Cipher
from user_service.users.encrypted_columns import USER_COLUMNS, seal_personal
from user_service.users.model import User
from user_service.users.pages import MAX_QUERIES, UserPages
from user_service.users.search_query import SearchPage, SearchQuery
from user_service.values.encryption_keys import parse_encryption_keys
from user_service.values.ids import new_id

CIPHER = Cipher(parse_encryption_keys(ENCRYPTION_KEY))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUERY = SearchQuery()


def make_user(user_id: UUID, version: int = 1) -> User:
    return User(
        id=user_id,
        external_id=None,
        email=f"{user_id}@example.org",
        status="active",
        version=version,
        created_at=NOW,
        updated_at=NOW,
    )


def make_row(user: User) -> tuple[Any, ...]:
    values = {name: getattr(user, name, None) for name in USER_COLUMNS}
    return tuple((values | {"personal": seal_personal([user], CIPHER)[0], "metadata": "{}"}).values())


class Database:
    """Gives the rows of its users, and notes what it was asked for."""

    def __init__(self, users: list[User]) -> None:
        self.users = users
        self.asked: list[bool] = []
        self.users_afterwards: list[User] | None = None

    async def read(self, query: SearchQuery, *, brief: bool = False) -> SearchPage[Any]:
        self.asked.append(brief)
        rows = [(user.id, user.version) if brief else make_row(user) for user in self.users]
        if self.users_afterwards is not None:
            self.users = self.users_afterwards
        return SearchPage(rows, None, 7 if query.counted else None)


async def fill(cache: Cache, users: list[User]) -> None:
    await cache.put({user.id: Entry(user.version, False, user.to_json()) for user in users})


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache(max_bytes=10**6, ttl_seconds=60, read_seconds=60)


async def test_a_page_whose_users_were_all_cached_is_read_briefly(cache: MemoryCache) -> None:
    database = Database([make_user(new_id()) for _ in range(3)])
    pages = UserPages(cache, CIPHER, database.read)
    await fill(cache, database.users)

    bodies = [(await pages.read(QUERY)).users for _ in range(3)]

    assert bodies == [[user.to_json() for user in database.users]] * 3
    assert database.asked == [False, True, True]


@pytest.mark.parametrize("cached", [0, 2])
async def test_a_page_whose_users_are_not_all_cached_is_read_once(cache: MemoryCache, cached: int) -> None:
    database = Database([make_user(new_id()) for _ in range(3)])
    pages = UserPages(cache, CIPHER, database.read)
    await fill(cache, database.users[:cached])

    bodies = [(await pages.read(QUERY)).users for _ in range(3)]

    assert bodies == [[user.to_json() for user in database.users]] * 3
    assert database.asked == [False] * 3


async def test_without_a_cache_a_page_is_read_once() -> None:
    database = Database([make_user(new_id())])
    pages = UserPages(NoCache(), CIPHER, database.read)

    assert (await pages.read(QUERY)).users == (await pages.read(QUERY)).users == [database.users[0].to_json()]
    assert database.asked == [False] * 2


async def test_of_two_readings_only_the_second_one_is_shown(cache: MemoryCache) -> None:
    """Between them one user was deleted, and another one was created."""
    ids = [new_id() for _ in range(4)]
    database = Database([make_user(user_id) for user_id in ids[:3]])
    pages = UserPages(cache, CIPHER, database.read)
    await fill(cache, database.users)
    await pages.read(QUERY)
    database.users[1] = make_user(ids[1], version=2)
    database.users_afterwards = [make_user(user_id) for user_id in (ids[0], ids[2], ids[3])]

    page = await pages.read(QUERY)

    assert database.asked == [False, True, False]
    assert page.users == [user.to_json() for user in database.users_afterwards]


async def test_a_page_that_was_read_twice_is_read_once_from_then_on(cache: MemoryCache) -> None:
    database = Database([make_user(new_id()) for _ in range(2)])
    pages = UserPages(cache, CIPHER, database.read)
    await fill(cache, database.users)
    await pages.read(QUERY)
    await cache.clear()

    for _ in range(2):
        await pages.read(QUERY)

    assert database.asked == [False, True, False, False]


async def test_a_page_with_the_number_of_all_users_is_read_once(cache: MemoryCache) -> None:
    database = Database([make_user(new_id())])
    pages = UserPages(cache, CIPHER, database.read)
    await fill(cache, database.users)

    totals = [(await pages.read(QUERY._replace(counted=True))).total for _ in range(2)]

    assert totals == [7, 7]
    assert database.asked == [False] * 2


async def test_the_pages_that_are_remembered_are_bounded(cache: MemoryCache) -> None:
    database = Database([])
    pages = UserPages(cache, CIPHER, database.read)

    for number in range(MAX_QUERIES + 10):
        await pages.read(QUERY._replace(q=str(number)))

    assert len(pages.cached) == MAX_QUERIES


def test_queries_that_differ_have_different_hashes() -> None:
    queries = [QUERY, QUERY._replace(limit=2), QUERY._replace(status="active"), QUERY._replace(metadata={"a": "b"})]
    queries += [QUERY._replace(metadata={"a": "c"}), QUERY._replace(q="a"), QUERY._replace(email_domain="a")]

    assert len(set(map(hash, queries))) == len(queries)
    assert hash(QUERY._replace(metadata={"a": "b", "c": "d"})) == hash(QUERY._replace(metadata={"c": "d", "a": "b"}))
