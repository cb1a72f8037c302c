"""Lists and batches over ten million users: `python -m benchmarks.ten_million [--users N]`. Needs 15 GB of disk.

Prints what PostgreSQL says of each kind of page (EXPLAIN (ANALYZE, BUFFERS), the second of two runs), and the cost of a
created user beside that in an empty table. Keeps both as Markdown.
"""

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path

import asyncpg

from benchmarks.batch import created_per_second, microseconds, other_database
from benchmarks.compare import Comparison, alternate
from benchmarks.fill import FIRST_MILLISECOND, fill
from benchmarks.people import names
from benchmarks.report import RESULTS
from benchmarks.servers import Bench, open_bench, service, service_env
from user_service.encryption.blind_index import EMAIL, BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.encryption.keyring import load_keys
from user_service.postgres.pool import PLANNER
from user_service.postgres.session import Session
from user_service.settings import Settings
from user_service.users.cursors import Cursor
from user_service.users.search import UserSearch
from user_service.users.search_query import SearchQuery
from user_service.values.ids import time_at

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS) "
KNOWN_EMAIL = "known@example.org"
BATCHES = 20
ROUNDS = 5


async def queries(connection: asyncpg.Connection, count: int) -> dict[str, SearchQuery]:
    """One of each kind of page. Somebody in the middle has an e-mail address that can be asked for."""
    middle = await connection.fetchrow("SELECT id, updated_at FROM users ORDER BY id OFFSET $1 LIMIT 1", count // 2)
    assert middle is not None
    behind = Cursor(middle["updated_at"], middle["id"])
    given, family = names(count // 2)
    return {
        "the first page": SearchQuery(),
        f"the page behind {count // 2:,} users": SearchQuery(cursor=behind),
        "the same by updated_at": SearchQuery(sort="updated_at", cursor=behind),
        "one e-mail address": SearchQuery(email=KNOWN_EMAIL),
        "one external_id": SearchQuery(external_id=f"list-{count // 2}"),
        "a pair of metadata that 2 % have": SearchQuery(metadata={"seats": "7"}),
        "a pair that all have, behind the middle": SearchQuery(metadata={"plan": "team"}, cursor=behind),
        "two words of a name": SearchQuery(q=f"{given} {family}"),
        "a word and a pair": SearchQuery(q=family, metadata={"seats": str(count // 2 % 50)}),
        "suspended users, newest first": SearchQuery(status="suspended", sort="-created_at"),
        "changed in the last second": SearchQuery(
            updated_after=time_at(FIRST_MILLISECOND + count - 1_000), sort="-updated_at"
        ),
    }


async def explain(bench: Bench, index: BlindIndex, cipher: Cipher, count: int) -> list[str]:
    connection = await asyncpg.connect(bench.database_url, server_settings=PLANNER)
    search = UserSearch(None, cipher, index)  # type: ignore[arg-type]  # it only writes statements here
    lines = ["| page | in PostgreSQL |", "| --- | --- |"]
    plans = []
    try:
        middle = f"list-{count // 2}"
        await connection.execute(
            "INSERT INTO identifiers (kind, index, user_id) SELECT $1, $2, id FROM users WHERE external_id = $3",
            EMAIL,
            index.email(KNOWN_EMAIL),
            middle,
        )
        for label, query in (await queries(connection, count)).items():
            sql, values = search.statement(query)
            async with Session(connection).planned_for_values():
                await connection.fetch(EXPLAIN + sql, *values)
                plan = [row[0] for row in await connection.fetch(EXPLAIN + sql, *values)]
            taken = re.search(r"Execution Time: ([\d.]+) ms", plan[-1])
            assert taken
            lines.append(f"| {label} | {float(taken[1]):.2f} ms |")
            print(lines[-1], flush=True)
            plans += [f"{label}:", "", "```text", *plan, "```", ""]
    finally:
        await connection.close()
    return [*lines, "", *plans]


def growth(filled: Bench, root: Bench) -> list[str]:
    with other_database(root, "small") as empty, service(empty) as small, service(filled) as large:
        for server in (small, large):
            created_per_second(server, BATCHES)()
        seen = Comparison(
            *alternate(
                ROUNDS,
                baseline=microseconds(created_per_second(small, BATCHES)),
                subject=microseconds(created_per_second(large, BATCHES)),
            )
        )
    spread = f"{min(seen.ratios):.2f}-{max(seen.ratios):.2f}"
    return [f"A created user costs {seen.ratio:.2f} x ({spread}) of what it costs in a small table.", ""]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.ten_million", description=__doc__)
    parser.add_argument("--users", type=int, default=10_000_000)
    count = parser.parse_args().users
    with open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench:
        keys = load_keys(Settings.load(service_env(bench, 0)))
        index = BlindIndex(keys.blind_index)
        with other_database(bench, "many") as filled:
            began = time.monotonic()
            asyncio.run(fill(filled.database_url, index, count))
            print(f"{count:,} users after {time.monotonic() - began:.0f} s", flush=True)
            lines = asyncio.run(explain(filled, index, keys.cipher, count))
            lines = [*growth(filled, bench), *lines]
    print(lines[0])
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "ten-million.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
