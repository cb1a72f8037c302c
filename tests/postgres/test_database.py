"""Transactions: what commits, what is undone, and what a failed one leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from support.waiting import PATIENCE_SECONDS
from user_service.errors import Contended, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.connector import Connection, Connector
from user_service.postgres.database import BEGIN, BEGIN_SNAPSHOT, Database
from user_service.postgres.pool import connect_options
from user_service.postgres.session import Session
from user_service.postgres.statements import text
from user_service.settings import Settings

COUNT = text("SELECT count(*) FROM things")
ADD = text("INSERT INTO things VALUES (:id)")
REPLACE = text("UPDATE things SET id = :id")
NUMBERS = text("SELECT generate_series(1, :last)")


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    """Two connections to a database with one table."""
    settings = Settings(database_url=empty_database_url)
    connector = Connector(lambda: connect_options(settings), Metrics())
    database = Database(connector, connector.metrics, size=2, seconds=PATIENCE_SECONDS)
    async with database.session() as session:
        await session.execute(text("CREATE TABLE things (id integer PRIMARY KEY)"))
    yield database
    await database.close()
    await connector.close()


async def count(database: Database) -> int:
    async with database.session() as session:
        number: int = (await session.execute(COUNT)).scalar_one()
    return number


async def test_a_block_that_ends_commits_and_one_that_raises_does_not(database: Database) -> None:
    async with database.session(BEGIN) as session:
        await session.execute(ADD, {"id": 1})

    async def fail() -> None:
        async with database.session(BEGIN) as session:
            await session.execute(ADD, {"id": 2})
            raise LookupError

    with pytest.raises(LookupError):
        await fail()

    assert await count(database) == 1
    assert database.stats.active == 0
    assert database.stats.opened == 1


async def test_a_savepoint_that_raises_is_undone_alone(database: Database) -> None:
    async def add(session: Session, *ids: int) -> None:
        async with await session.savepoint():
            for number in ids:
                await session.execute(ADD, {"id": number})

    async with database.session(BEGIN) as session:
        await session.execute(ADD, {"id": 1})
        with pytest.raises(asyncpg.UniqueViolationError):
            await add(session, 2, 1)
        await add(session, 3)
        later = await session.savepoint()
        await session.execute(ADD, {"id": 4})
        await later.rollback()

    async with database.session() as session:
        assert (await session.execute(text("SELECT id FROM things ORDER BY id"))).scalars() == [1, 3]


async def test_an_error_that_is_swallowed_does_not_pass_for_a_commit(database: Database) -> None:
    async def swallow() -> None:
        async with database.session(BEGIN) as session:
            await session.execute(ADD, {"id": 1})
            with suppress(asyncpg.DivisionByZeroError):
                await session.execute(text("SELECT 1 / 0"))

    with pytest.raises(RuntimeError, match="rolled back"):
        await swallow()

    assert await count(database) == 0


async def test_a_cancelled_transaction_leaves_no_locks_and_no_connection_in_use(database: Database) -> None:
    ready = asyncio.Event()

    async def hang() -> None:
        async with database.session(BEGIN) as session:
            await session.execute(ADD, {"id": 1})
            ready.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(hang())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with database.session(BEGIN) as session:
        await session.execute(ADD, {"id": 1})
    assert database.stats.active == 0


async def test_rows_stream_in_pieces_from_one_snapshot(database: Database) -> None:
    async with database.session(BEGIN_SNAPSHOT) as session:
        pieces = [[row[0] for row in rows] async for rows in session.stream(NUMBERS, {"last": 5}, size=2)]

    assert pieces == [[1, 2], [3, 4], [5]]


async def test_a_serialization_failure_is_contended(database: Database) -> None:
    async with database.session(BEGIN) as session:
        await session.execute(ADD, {"id": 1})

    async def write_what_another_has_written() -> None:
        async with database.session(BEGIN_SNAPSHOT) as first:
            await first.execute(COUNT)
            async with database.session(BEGIN) as second:
                await second.execute(REPLACE, {"id": 2})
            await first.execute(REPLACE, {"id": 3})

    with pytest.raises(Contended):
        await write_what_another_has_written()

    async with database.session() as session:
        assert (await session.execute(text("SELECT id FROM things"))).scalars() == [2]


async def test_a_session_waits_for_a_connection_and_is_refused_in_the_end(database: Database) -> None:
    impatient = Database(database.connector, database.metrics, size=1, seconds=0.05)
    await impatient.fill()
    async with impatient.session():
        with pytest.raises(DatabaseUnavailable, match="in use"):
            async with impatient.session():
                pass
    await impatient.close()

    assert database.metrics.database_errors.values[("pool_timeout",)] == 1


async def test_connections_that_are_expired_while_they_are_opened_are_replaced(database: Database) -> None:
    interrupted = Interrupted(database.connector)
    database.connector.connect = interrupted.connect  # type: ignore[method-assign]
    await asyncio.gather(*(count(database) for _ in range(10)))

    assert interrupted.left == 0


class Interrupted:
    """Opens connections of a connector, the first of which are expired in the same moment."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.left = 3
        self.open = connector.connect
        connector.expire()

    async def connect(self) -> Connection:
        connection = await self.open()
        if self.left:
            self.left -= 1
            # As `Connector.expire`, without its pause.
            self.connector.generation += 1
        return connection
