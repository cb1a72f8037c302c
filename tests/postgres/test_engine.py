"""The pool of changes while connections stop being fit for use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from support.connections import open_connections
from user_service.postgres.connector import Connection, Connector
from user_service.postgres.engine import open_engine

# Longer than any of this takes.
SECONDS = 60.0
# More than SQLAlchemy repeats by itself.
TIMES = 5


class Interrupted:
    """Opens connections of a connector, all of which are expired while the first ones are opened."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.left = TIMES
        self.open = connector.connect

    async def connect(self) -> Connection:
        connection = await self.open()
        if self.left:
            self.left -= 1
            self.connector.expire()
        return connection


@asynccontextmanager
async def open_pool(connector: Connector, *, size: int) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(connector, size=size, seconds=SECONDS)
    yield engine
    await engine.dispose()


async def use(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT 1")))


async def test_connections_that_are_expired_while_they_are_opened_are_replaced(database_url: str) -> None:
    async with open_connections(database_url) as connections:
        connector = connections.connector
        interrupted = Interrupted(connector)
        connector.connect = interrupted.connect  # type: ignore[method-assign]
        async with open_pool(connector, size=2) as engine:
            answers = await asyncio.gather(*(use(engine) for _ in range(10)))

    assert answers == [1] * 10
    assert interrupted.left == 0
