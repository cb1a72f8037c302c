"""`q=` as people type it: accents, case, the Turkish i, parts of Han, Kana and Hangul words, beginnings of words"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from support.api import USERS, make_user, user_url
from support.application import Client, running
from support.process import command
from support.settings import make_settings
from user_service.encryption.blind_index import BlindIndex
from user_service.users.search_query import SearchQuery
from user_service.values.name_words import split_folded

pytestmark = pytest.mark.distributed


async def find(client: httpx.AsyncClient, q: str, **parameters: Any) -> list[str]:
    """The display names of the users that a query finds."""
    response = await client.get(USERS, params={"q": q, **parameters})
    assert response.status_code == 200, response.text
    return [user["display_name"] for user in response.json()["items"]]


FOUND = [
    ("José García", ["jose", "JOSÉ", "garcia", "Jose\u0301 GARCÍA"]),
    ("Łukasz Øystein Đorđević", ["lukasz", "oystein", "dordevic", "Łukasz", "ØYSTEIN"]),
    ("İbrahim Işık", ["ibrahim", "IBRAHIM", "isik", "ISIK", "Işık", "ışık", "İBRAHİM"]),
    ("Zoë Müller-Straße", ["zoe", "muller", "strasse", "STRASSE", "Müller"]),
    ("Nguyễn Thị Ánh", ["nguyen", "thi anh", "NGUYỄN"]),
    ("Ἀλέξανδρος Παπαδόπουλος", ["αλεξανδρος", "ΠΑΠΑΔΟΠΟΥΛΟΣ"]),
    ("Алёна Майская", ["алена", "МАЙСКАЯ", "маиская"]),
    ("أحمد مُحَمَّد", ["احمد", "محمد"]),
    ("山田太郎", ["山田太郎", "山田", "太郎", "田太", "山"]),
    ("やまだ ハナコ", ["まだ", "ハナ", "ﾊﾅｺ"]),
    ("김민준", ["김민준", "민준", "김", "\u1100\u1175\u11b7"]),
    ("陈Anna", ["陈", "anna", "陈anna"]),
    ("हिन्दी", ["हिन्दी"]),
]
NOT_FOUND = [
    ("José", ["jos", "josef", "ose"]),
    ("山田太郎", ["田山", "山太", "山田 花", "郎太"]),
    ("हिन्दी", ["हन्दी", "हिन्दू"]),
    ("Anna", ["ann", "n"]),
]


@pytest.mark.parametrize(("name", "queries"), FOUND)
async def test_a_name_is_found_as_it_is_typed(client: Client, name: str, queries: list[str]) -> None:
    await make_user(client, display_name=name)
    await make_user(client, display_name="Somebody Else")

    assert {query: await find(client, query) for query in queries} == {query: [name] for query in queries}


@pytest.mark.parametrize(("name", "queries"), NOT_FOUND)
async def test_what_is_no_word_of_a_name_finds_nothing(client: Client, name: str, queries: list[str]) -> None:
    await make_user(client, display_name=name)

    assert {query: await find(client, query) for query in queries} == {query: [] for query in queries}


async def test_a_long_query_is_one_statement_of_bounded_size(client: Client) -> None:
    name = " ".join(f"word{number}" for number in range(28))
    run = "".join(chr(0x4E00 + number) for number in range(199))
    await make_user(client, display_name=name)
    await make_user(client, display_name=run)

    assert await find(client, name[:200]) == [name]
    assert await find(client, run) == [run]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def list_terms(database: asyncpg.Connection, user: dict[str, Any]) -> set[int]:
    return {row[0] for row in await database.fetch("SELECT term FROM user_terms WHERE user_id = $1", UUID(user["id"]))}


async def store_as_before(database: asyncpg.Connection, index: BlindIndex, user: dict[str, Any], name: str) -> None:
    """Stores the words of a name as a version did that knew no accents, and the beginnings of them."""
    former = {index.word(word) for word in split_folded(name)} | {index.hash_prefix(name[:3].lower())}
    await database.executemany(
        "INSERT INTO user_terms (term, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        [(term, UUID(user["id"])) for term in former],
    )


@pytest.mark.parametrize(
    ("method", "ending", "body"),
    [
        ("PATCH", "", {"display_name": None}),
        ("POST", "/erase", None),
        ("DELETE", "?purge=true", None),
    ],
)
async def test_no_term_of_an_earlier_version_stays(
    client: Client, database: asyncpg.Connection, method: str, ending: str, body: dict[str, Any] | None
) -> None:
    user = await make_user(client, display_name="Wilhelmína 山田太郎")
    index = client.resources.open_services().database.index
    await store_as_before(database, index, user, "Wilhelmína 山田太郎")

    response = await client.request(method, user_url(user, ending), json=body)

    left = await list_terms(database, user)
    assert response.is_success
    assert not left & {index.word(word) for word in ("wilhelmína", "wilhelmina", "山田太郎", "山田", "山")}
    assert index.hash_prefix("wil") not in left


async def test_a_change_of_several_users_removes_them_too(client: Client, database: asyncpg.Connection) -> None:
    users = [await make_user(client, display_name="Wilhelmína") for _ in range(2)]
    index = client.resources.open_services().database.index
    for user in users:
        await store_as_before(database, index, user, "Wilhelmína")

    items = [{"id": user["id"], "data": {"display_name": "Ada"}} for user in users]
    await client.post(f"{USERS}/batch/update", json={"items": items})

    for user in users:
        assert await list_terms(database, user) == index.user_terms(["ada"], {}) | {index.domain("example.org")}


async def test_reindex_finds_users_of_an_earlier_version(
    client: Client, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    users = [await make_user(client, display_name="Wilhelmína 山田太郎") for _ in range(3)]
    index = client.resources.open_services().database.index
    wanted = [await list_terms(database, user) for user in users]
    await database.execute("DELETE FROM user_terms")
    for user in users:
        await store_as_before(database, index, user, "Wilhelmína 山田太郎")
    before = await find(client, "wilhelmina")

    done = await asyncio.to_thread(command, tmp_path, "reindex", DATABASE_URL=database_url)

    assert before == []
    assert "search terms of 3 users are written. Whole words are found." in done.stdout
    assert len(await find(client, "wilhelmina 太郎")) == 3
    assert [await list_terms(database, user) for user in users] == wanted


async def test_beginnings_of_words_are_found_after_a_reindex(database_url: str, tmp_path: Path) -> None:
    queries = ["wil", "WILHELM", "wilhelmi", "wilhelmina", "kön", "kon", "山田", "wi", "w", "ilhelm", "x"]
    environ = {"DATABASE_URL": database_url, "SEARCH_PREFIXES": "true"}

    async def ask(client: Client) -> list[int]:
        await client.resources.verify()
        return [len(await find(client, query)) for query in queries]

    async with running(make_settings(database_url, tmp_path)) as off:
        await make_user(off, display_name="Wilhelmina König 山田太郎")
        async with running(make_settings(database_url, tmp_path, search_prefixes=True)) as on:
            await make_user(on, display_name="Wilhelm Konrad")
            before = [await ask(off), await ask(on)]
            done = await asyncio.to_thread(command, tmp_path, "reindex", **environ)
            after = [await ask(off), await ask(on)]
            await asyncio.to_thread(command, tmp_path, "reindex", **environ | {"SEARCH_PREFIXES": "false"})
            taken_back = [await ask(off), await ask(on)]

    whole = [0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert before == [whole, whole]
    assert "Beginnings of words are found now." in done.stdout
    assert after == [whole, [2, 2, 1, 1, 2, 2, 1, 0, 0, 0, 0]]
    assert taken_back == [whole, whole]


async def test_a_database_without_users_needs_no_reindex(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, search_prefixes=True)) as client:
        await make_user(client, display_name="Wilhelm Konrad")

        assert [len(await find(client, query)) for query in ("wil", "kon wilhelm", "wi")] == [1, 1, 0]


async def test_an_export_takes_the_same_words(client: Client) -> None:
    await make_user(client, display_name="José 山田太郎")
    await make_user(client, display_name="Ada")

    exported = await client.get(f"{USERS}/export", params={"q": "JOSE 太郎", "fields": "display_name"})

    assert "José" in exported.text
    assert len(exported.text.splitlines()) == 1


async def test_a_count_ends_in_time(client: Client, database: asyncpg.Connection) -> None:
    await make_user(client, display_name="Ada")
    users = client.resources.open_services().database

    async with users.reading(users.primary) as search:
        counted = await search.count(SearchQuery(q="ada"), seconds=10)
        async with database.transaction():
            await database.execute("LOCK TABLE users")
            stopped = await search.count(SearchQuery(q="ada"), seconds=0.1)
        again = await search.count(SearchQuery(q="ada"), seconds=10)

    assert (counted, stopped, again) == (1, None, 1)
    page = (await client.get(USERS, params={"q": "ada", "count": "true"})).json()
    assert page["total"] == 1
