"""One connection for a unit of work. Statements run on asyncpg, whose values are the rows'."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from user_service.observability.tracing import Traced, untraced
from user_service.postgres.connector import Connection
from user_service.postgres.distribution import Distribution
from user_service.postgres.statements import Statement, text

# server/protocol.py closes the connection of a reader after 60 s.
IDLE_FOR_READER: Final = text("SELECT set_config('idle_in_transaction_session_timeout', '75s', true)")
# After five executions PostgreSQL may keep one plan for all values of a prepared statement. A search needs the plan of
# its values: whether it goes through the users of one word or of another is a matter of milliseconds or seconds. With a
# plan of its own it may also merge two lists of users, which ends as soon as the page is full; see pool.PLANNER.
PLAN_FOR_VALUES: Final = "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_mergejoin = on"
NO_VALUES: Final[Mapping[str, object]] = {}

Row = Any  # asyncpg.Record: a tuple whose fields have names.


class Rows(Sequence[Row]):
    """The rows of a statement."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def one(self) -> Row:
        (row,) = self.rows
        return row

    def one_or_none(self) -> Row | None:
        return self.one() if self.rows else None

    def scalars(self) -> list[Any]:
        """The first value of each row."""
        return [row[0] for row in self.rows]

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        return self.one()[0] if self.rows else None


class Savepoint:
    """The changes since a point of a transaction. As a context manager, an error undoes them."""

    __slots__ = ("connection", "name")

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    async def rollback(self) -> None:
        """Undoes the changes."""
        await self.connection.execute(f"ROLLBACK TO SAVEPOINT {self.name}")

    async def __aenter__(self) -> "Savepoint":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.connection.execute(f"RELEASE SAVEPOINT {self.name}")
        elif isinstance(error, Exception) and not self.connection.is_closed():
            await self.rollback()


class Session:
    """Runs statements on one connection."""

    __slots__ = ("connection", "distribution", "savepoints", "traced")

    def __init__(
        self, connection: Connection, *, traced: Traced = untraced, distribution: Distribution | None = None
    ) -> None:
        # asyncpg's, for COPY.
        self.connection = connection
        self.distribution = distribution or Distribution()
        self.traced = traced
        self.savepoints = 0

    async def execute(
        self, statement: Statement, values: Mapping[str, object] = NO_VALUES, *, seconds: float | None = None
    ) -> Rows:
        """Runs a statement with values for its named parameters, cancelled after `seconds` by TimeoutError.

        Raises asyncpg's errors.
        """
        with self.traced(statement.sql):
            return Rows(await self.connection.fetch(statement.sql, *statement.arguments(values), timeout=seconds))

    async def stream(
        self, statement: Statement, values: Mapping[str, object] = NO_VALUES, *, size: int
    ) -> AsyncIterator[list[Row]]:
        """The rows, `size` at a time, by a server-side cursor: the session must be in a transaction."""
        with self.traced(statement.sql):
            cursor = await self.connection.cursor(statement.sql, *statement.arguments(values))
        while rows := await cursor.fetch(size):
            yield rows

    @asynccontextmanager
    async def planned_for_values(self) -> AsyncIterator[None]:
        """A transaction whose statements are planned for their very values. It costs two round trips."""
        await self.connection.execute(f"BEGIN; {PLAN_FOR_VALUES}")
        try:
            yield
        except TimeoutError:
            if not self.connection.is_closed():
                await self.connection.execute("ROLLBACK")
            raise
        await self.connection.execute("COMMIT")

    async def plan_for_values(self) -> None:
        """Plans the statements of this transaction for their very values from here on."""
        await self.connection.execute(PLAN_FOR_VALUES)

    async def wait_for_reader(self) -> None:
        """Lets the transaction idle for longer than the process's server waits for a reader that takes no data."""
        await self.execute(IDLE_FOR_READER)

    async def is_distributed(self) -> bool:
        """Whether the users are distributed over several servers."""
        return await self.distribution.is_distributed(self.connection.fetch)

    async def lockable(self, ids: Sequence[UUID]) -> list[list[UUID]]:
        """The ids of users in groups, each of which one statement can lock, in the order of all transactions."""
        return await self.distribution.lockable(ids, self.connection.fetch)

    async def savepoint(self) -> Savepoint:
        """Begins changes that can be undone without the rest of the transaction."""
        self.savepoints += 1
        name = f"s{self.savepoints}"
        await self.connection.execute(f"SAVEPOINT {name}")
        return Savepoint(self.connection, name)
