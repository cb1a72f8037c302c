"""Units of work: PostgreSQL transactions through SQLAlchemy, and the cache invalidation that follows a commit."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from user_service.cache.base import Cache
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.keyring import Keyring
from user_service.errors import Contended, DatabaseUnavailable, ServiceError
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Tracing
from user_service.postgres.connector import Connector
from user_service.postgres.engine import EnginePool, fill_pool, open_engine
from user_service.postgres.failures import TRANSIENT, URL_SETTING, is_transient, translate_failure
from user_service.postgres.pool import PoolStats, connect_options, replica_share
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.users.exports import ExportFormat
from user_service.users.model import User
from user_service.users.privacy.export import PersonalExport
from user_service.users.replica_reads import ReplicaReads
from user_service.users.repository import UserRepository
from user_service.users.search import SearchPage, SearchQuery, UserSearch, wait_for_reader
from user_service.users.service import UserService

# Deadlocks and serialization failures: class 40 of the SQL standard.
ROLLED_BACK: Final = (asyncpg.TransactionRollbackError,)


class UserDatabase:
    """The database of users: units of work that change them, and transactions that read."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        keys: Keyring,
        cache: Cache,
        metrics: Metrics,
        *,
        connector: Connector,
        size: int,
        after_change: Callable[[], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`settings` gives those in force, whose password may have changed. `connector` opens the connections to the
        database that takes writes. `size` is the maximum number of connections, those to the replica among them.
        """
        self.keys = keys
        self.cipher = keys.cipher
        self.indexed = keys.blind_index, BlindIndex(keys.blind_index)
        self.cache = cache
        self.metrics = metrics
        self.after_change = after_change
        replica_size = replica_share(settings())
        self.connector = connector
        seconds = settings().database_timeout
        self.engine = open_engine(connector, size=size - replica_size, seconds=seconds)
        self.read_engine, self.read_connector = self.engine, connector
        if settings().database_read_url:
            self.read_connector = Connector(
                lambda: connect_options(settings(), url=settings().database_read_url), metrics, writes=False
            )
            self.read_engine = open_engine(self.read_connector, size=replica_size, seconds=seconds)
        if tracing is not None:
            for engine in {self.engine, self.read_engine}:
                tracing.watch_engine(engine)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self.read_sessions = async_sessionmaker(self.read_engine, expire_on_commit=False)
        self.lagging_reads = ReplicaReads(
            primary=lambda: self.reading(self.sessions),
            replica=(lambda: self.reading(self.read_sessions, setting="DATABASE_READ_URL")) if replica_size else None,
            metrics=metrics,
        )

    @property
    def index(self) -> BlindIndex:
        """The blind index under the key that the database was written with, which is read from the database."""
        # Compared by value: each check of the database sets an equal key again.
        if self.indexed[0] != self.keys.blind_index:
            self.indexed = self.keys.blind_index, BlindIndex(self.keys.blind_index)
        return self.indexed[1]

    @asynccontextmanager
    async def unit_of_work(self, origin: Origin) -> AsyncIterator[UserService]:
        """One transaction: commits when the block ends, then invalidates the changed users and wakes the relay.

        Raises DatabaseUnavailable, and Contended when PostgreSQL rolled it back in favour of another one: run it again.
        """
        service: UserService | None = None
        done = False
        try:
            async with self.translate_sql_errors(), self.sessions() as session, session.begin():
                service = UserService(UserRepository(session, self.cipher, self.index), origin)
                yield service
                done = True
        finally:
            # A commit may have succeeded although its response was lost.
            if service is not None and done:
                await self.cache.invalidate(service.changed_versions)
                if service.changed_versions and self.after_change is not None:
                    self.after_change()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A transaction that changes no user. Raises DatabaseUnavailable, Contended."""
        async with self.translate_sql_errors(), self.sessions() as session, session.begin():
            yield session

    @asynccontextmanager
    async def reading(
        self, sessions: async_sessionmaker[AsyncSession], *, setting: str = URL_SETTING
    ) -> AsyncIterator[UserSearch]:
        """A search of users on the server of a setting. Raises DatabaseUnavailable, Contended."""
        async with self.translate_sql_errors(setting=setting), sessions() as session:
            yield UserSearch(session, self.cipher, self.index)

    async def page(self, query: SearchQuery) -> SearchPage:
        """A page of users. One that names an e-mail address or external id is read from the primary.

        Raises DatabaseUnavailable, Contended.
        """
        if query.names_key:
            async with self.reading(self.sessions) as search:
                return await search.page(query)
        return await self.lagging_reads.run(lambda search: search.page(query))

    async def last_changed(self, limit: int) -> list[UUID]:
        """The ids of the last changed users that are not deleted, the newest change first."""
        return await self.lagging_reads.run(lambda search: search.last_changed(limit))

    async def export(self, query: SearchQuery, export_format: ExportFormat) -> AsyncGenerator[bytes]:
        """All users that match the filters of a query, a piece at a time, in one snapshot."""
        head = export_format.head
        async with aclosing(self.lagging_reads.stream(lambda search: search.all_users(query))) as parts:
            async for some in parts:
                yield head + export_format.encode(some)
                head = b""
        if head:
            yield head

    async def export_user(
        self, user_id: UUID, *, actor_names: Callable[[User], Collection[str]]
    ) -> AsyncGenerator[bytes]:
        """All that is stored about one user as JSON, a piece at a time, in one snapshot. Raises UserNotFound."""
        async with self.transaction() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            await wait_for_reader(session)
            export = PersonalExport(UserRepository(session, self.cipher, self.index))
            async with aclosing(export.pieces(user_id, actor_names=actor_names)) as pieces:
                async for piece in pieces:
                    yield piece

    @property
    def pool_stats(self) -> list[PoolStats]:
        """How much of each pool is in use now."""
        pools = {id(engine): engine.pool for engine in (self.engine, self.read_engine)}
        return [pool.stats for pool in pools.values() if isinstance(pool, EnginePool)]

    async def close(self) -> None:
        await self.engine.dispose()
        await self.read_engine.dispose()
        await self.read_connector.close()

    async def fill_pool(self) -> None:
        """Opens a few connections for changes ahead of the first one. Raises DatabaseUnavailable."""
        async with self.translate_sql_errors():
            await fill_pool(self.engine)

    @asynccontextmanager
    async def translate_sql_errors(self, *, setting: str = URL_SETTING) -> AsyncIterator[None]:
        """Turns a transient failure into DatabaseUnavailable or Contended (503) and counts it.

        A server that has become read-only expires the connections of every pool.
        """
        try:
            yield
        except PoolTimeout as error:
            self.metrics.database_errors.add("pool_timeout")
            raise DatabaseUnavailable("All database connections are in use.") from error
        except DBAPIError as error:
            cause = getattr(error.orig, "__cause__", None)
            if not (error.connection_invalidated or is_transient(cause)):
                raise
            self.connector.note_failure(cause)
            raise self.count_error(cause or error, setting) from error
        except TRANSIENT as error:
            if not is_transient(error):
                raise
            self.connector.note_failure(error)
            raise self.count_error(error, setting) from error

    def count_error(self, error: BaseException, setting: str) -> ServiceError:
        """Counts a transient failure. Returns the error to raise for it."""
        unavailable = translate_failure(error, self.metrics, setting=setting)
        return Contended() if isinstance(error, ROLLED_BACK) else unavailable
