"""What is sealed in a database, looked at from outside."""

from collections import Counter

import asyncpg
from sqlalchemy import LargeBinary

from user_service.postgres.tables import metadata


def binary_columns() -> dict[str, list[str]]:
    """Every column of bytes that there is, by table."""
    return {
        table.name: names
        for table in metadata.sorted_tables
        if (names := [column.name for column in table.columns if isinstance(column.type, LargeBinary)])
    }


async def key_ids(url: str) -> Counter[str]:
    """How many tokens there are under which key, in whatever column. Keys are called `k` and a digit here."""
    connection = await asyncpg.connect(url)
    found: Counter[str] = Counter()
    for table, names in binary_columns().items():
        for name in names:
            head = f"substring({name} FROM 1 FOR 4)"
            statement = f"SELECT {head}, count(*) FROM {table} WHERE substring({name} FROM 1 FOR 3) = $1 GROUP BY 1"
            for token, number in await connection.fetch(statement, b"\x01\x02k"):
                found[token[2:].decode()] += number
    await connection.close()
    return found


async def meta(url: str) -> dict[str, str]:
    """What the database knows of its keys."""
    connection = await asyncpg.connect(url)
    rows = dict(await connection.fetch("SELECT name, value FROM service_meta"))
    await connection.close()
    return rows
