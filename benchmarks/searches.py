"""Searches over ten million users with SEARCH_PREFIXES: `python -m benchmarks.searches [--users N]`. 25 GB of disk.

Prints the minimum and the median for a page of 50 of each kind of search: in PostgreSQL, by EXPLAIN with TIMING OFF,
since clocks would add up to half; and in the process, with three round trips and the plan. Keeps both as Markdown.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import asyncpg

from benchmarks.batch import other_database
from benchmarks.fill_searches import COMMON_DOMAINS, HAN_FAMILIES, HAN_GIVEN, fill_searches
from benchmarks.people import names
from benchmarks.report import RESULTS
from benchmarks.servers import open_bench, service_env
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.encryption.keyring import load_keys
from user_service.postgres.pool import PLANNER
from user_service.postgres.session import Session
from user_service.settings import Settings
from user_service.users.search import COUNT_SECONDS, UserSearch
from user_service.users.search_query import SearchQuery

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) "
KNOWN_PHONE = "+4930123456"
ROUNDS = 9


class Search(NamedTuple):
    label: str
    query: SearchQuery
    finds_prefixes: bool = True


def searches(count: int) -> list[Search]:
    """One of each kind, and the worst that is known of some."""
    given, family = names(count // 2)
    other_given, other_family = names(count // 2 + 1)
    accented = f"{given} {family}".replace("a", "á").replace("e", "ë").replace("o", "ø").upper()
    han = HAN_FAMILIES[5] + HAN_GIVEN[7]
    return [
        Search("one phone number", SearchQuery(phone=KNOWN_PHONE)),
        Search("a domain of 40 % of the users", SearchQuery(email_domain=COMMON_DOMAINS[0])),
        Search("a domain of 150 users", SearchQuery(email_domain="company7.example")),
        Search("the same domain and a status", SearchQuery(email_domain="company7.example", status="suspended")),
        Search("one word", SearchQuery(q=family), finds_prefixes=False),
        Search("two words of one user", SearchQuery(q=f"{given} {family}"), finds_prefixes=False),
        Search("the same with accents and in capitals", SearchQuery(q=accented), finds_prefixes=False),
        Search("two words of 25,000 users each, of none both", SearchQuery(q=f"{given} {other_given}"), False),
        Search("a word and a domain of 40 %", SearchQuery(q=family, email_domain=COMMON_DOMAINS[0]), False),
        Search("one Han character", SearchQuery(q=han[0])),
        Search("two Han characters of a name", SearchQuery(q=han[1:3])),
        Search("a whole name in Han", SearchQuery(q=han)),
        Search("one beginning of 3 letters", SearchQuery(q=family[:3])),
        Search("one beginning of 5 letters", SearchQuery(q=family[:5])),
        Search("two beginnings of 3 letters", SearchQuery(q=f"{given[:3]} {family[:3]}")),
        Search("two whole words, as beginnings", SearchQuery(q=f"{given} {family}")),
        Search("two beginnings, newest first", SearchQuery(q=f"{given[:3]} {family[:3]}", sort="-created_at")),
        Search("a beginning and a metadata pair of 2 %", SearchQuery(q=family[:4], metadata={"seats": "8"})),
        Search("the same, of none both", SearchQuery(q=family[:4], metadata={"seats": "7"})),
        Search("three beginnings of 5 letters, of none all", SearchQuery(q=f"{given} {other_given} {family[:5]}")),
        Search("three beginnings of 3 letters, of none all", SearchQuery(q="bre mar tor")),
        Search("one beginning of 3 letters by updated_at", SearchQuery(q=family[:3], sort="-updated_at")),
        Search("one word of 1,250 users by updated_at", SearchQuery(q=other_family, sort="-updated_at"), False),
    ]


def counts(count: int) -> list[Search]:
    given, family = names(count // 2)
    return [
        Search("one word of 1,250 users", SearchQuery(q=family), finds_prefixes=False),
        Search("one word of 25,000 users", SearchQuery(q=given), finds_prefixes=False),
        Search("a beginning of 3 letters", SearchQuery(q=family[:3])),
        Search("a domain of 40 % of the users", SearchQuery(email_domain=COMMON_DOMAINS[0])),
        Search("all users", SearchQuery()),
    ]


async def explain(url: str, key: bytes, cipher: Cipher, count: int) -> list[str]:
    indexes = [BlindIndex(key, stores_prefixes=True, finds_prefixes=finds) for finds in (False, True)]
    connection = await asyncpg.connect(url, server_settings=PLANNER)
    lines, plans = ["| search | in PostgreSQL | in the process | users |", "| --- | --- | --- | --- |"], []
    try:
        await connection.execute(
            "UPDATE users SET phone_index = $1 WHERE id = (SELECT id FROM users ORDER BY id OFFSET $2 LIMIT 1)",
            indexes[0].phone(KNOWN_PHONE),
            count // 2,
        )
        for search in searches(count):
            users = UserSearch(Session(connection), cipher, indexes[search.finds_prefixes])
            waited = [await seconds(users.page(search.query)) for _ in range(ROUNDS)]
            found = len((await users.page(search.query)).users)
            plan, taken = await plan_page(connection, *users.statement(search.query))
            lines.append(f"| {search.label} | {show(taken)} | {show(waited)} | {found} |")
            print(lines[-1], flush=True)
            plans += [f"{search.label}:", "", "```text", *plan, "```", ""]
        lines += ["", "| count | after | answered |", "| --- | --- | --- |"]
        for search in counts(count):
            users = UserSearch(Session(connection), cipher, indexes[search.finds_prefixes])
            began = time.perf_counter()
            total = await users.count(search.query, seconds=COUNT_SECONDS)
            lines.append(f"| {search.label} | {(time.perf_counter() - began) * 1000:.0f} ms | {total} |")
            print(lines[-1], flush=True)
    finally:
        await connection.close()
    return [*lines, "", *plans]


async def seconds(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def plan_page(connection: asyncpg.Connection, sql: str, values: list[Any]) -> tuple[list[str], list[float]]:
    """The plan of a page as the service reads it, and the seconds of its executions."""
    taken = []
    async with Session(connection).planned_for_values():
        for _ in range(ROUNDS):
            plan = [row[0] for row in await connection.fetch(EXPLAIN + sql, *values)]
            found = re.search(r"Execution Time: ([\d.]+) ms", plan[-1])
            assert found
            taken.append(float(found[1]) / 1_000)
    return plan, taken


def show(taken: list[float]) -> str:
    """The minimum and the median, in milliseconds."""
    return f"{min(taken) * 1_000:.2f} ms, {median(taken) * 1_000:.2f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.searches", description=__doc__)
    parser.add_argument("--users", type=int, default=10_000_000)
    count = parser.parse_args().users
    with open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench:
        keys = load_keys(Settings.load(service_env(bench, 0)))
        with other_database(bench, "searches") as filled:
            began = time.monotonic()
            index = BlindIndex(keys.blind_index, stores_prefixes=True)
            asyncio.run(fill_searches(filled.database_url, index, count))
            print(f"{count:,} users after {time.monotonic() - began:.0f} s", flush=True)
            lines = asyncio.run(explain(filled.database_url, keys.blind_index, keys.cipher, count))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "searches.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
