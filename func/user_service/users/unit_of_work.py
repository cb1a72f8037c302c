"""Units of work: PostgreSQL transactions, and the cache invalidation that follows a commit."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from random import uniform
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from user_service.cache.base import Cache
from user_service.cache.dataloader import DataLoader
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.keyring import Keyring
from user_service.errors import Contended
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.postgres.connections import PoolStats
from user_service.postgres.connector import Connector
from user_service.postgres.database import BEGIN, BEGIN_SNAPSHOT, Database
from user_service.postgres.pool import connect_options, replica_share
from user_service.postgres.session import Row, Session
from user_service.settings import Settings
from user_service.users.audit import AuditTrail
from user_service.users.audit_log import AuditLog
from user_service.users.change_log import Origin
from user_service.users.exports import ExportFormat
from user_service.users.group_commit import MAX_WRITES, Write, write_group
from user_service.users.pages import UserPages
from user_service.users.privacy.export import PersonalExport
from user_service.users.privacy.subject_data import ActorNames
from user_service.users.replica_reads import ReplicaReads
from user_service.users.repository import UserRepository
from user_service.users.search_query import Named, SearchPage, SearchQuery, find_named
from user_service.users.service import UserService
from user_service.users.single_statement import NotAtOnce, StatementRepository, fetch_rows
from user_service.values.deferred import Deferred

if TYPE_CHECKING:
    from user_service.users.search import UserSearch

# How long a caller waits at least while every connection of the pool is in use.
MIN_WAIT_SECONDS: Final = 3.0
# How long a group of changes, or of reads before them, may take before further ones run beside it.
GROUP_SECONDS: Final = 0.2
ATTEMPTS: Final = 6
FIRST_PAUSE_SECONDS: Final = 0.02

T = TypeVar("T")


def load_search() -> "type[UserSearch]":
    """Imports SQLAlchemy, which takes a tenth of a second: call it on a worker thread, at the first list."""
    from user_service.users.search import UserSearch

    return UserSearch


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
        traced: Traced = untraced,
    ) -> None:
        """`settings` gives those in force, whose password may have changed. `connector` opens the connections to the
        database that takes writes. `size` is the maximum number of connections, those to the replica among them.
        """
        self.keys = keys
        self.cipher = keys.cipher
        self.stores_prefixes = settings().search_prefixes
        self.indexed = self.make_index()
        self.cache = cache
        self.metrics = metrics
        self.after_change = after_change
        replica_size = replica_share(settings())
        seconds = max(settings().database_timeout, MIN_WAIT_SECONDS)
        self.search = Deferred(load_search)
        self.primary = Database(connector, metrics, size=size - replica_size, seconds=seconds, traced=traced)
        # What changes of single users begin with: concurrent ones share a round trip.
        self.current: DataLoader[UUID, Row] = DataLoader(partial(fetch_rows, self.primary), patience=GROUP_SECONDS)
        self.writes: DataLoader[Write, bool] = DataLoader(self.write_group, batch=MAX_WRITES, patience=GROUP_SECONDS)
        self.replica: Database | None = None
        if replica_size:
            read_connector = Connector(
                lambda: connect_options(settings(), url=settings().database_read_url), metrics, writes=False
            )
            self.replica = Database(
                read_connector,
                metrics,
                size=replica_size,
                seconds=seconds,
                traced=traced,
                setting="DATABASE_READ_URL",
            )
        self.pages = UserPages(cache, self.cipher, self.page)
        self.lagging_reads = ReplicaReads(
            primary=partial(self.reading, self.primary),
            replica=partial(self.reading, self.replica) if self.replica is not None else None,
            metrics=metrics,
        )

    @property
    def index(self) -> BlindIndex:
        """The blind index under the key that the database was written with, which is read from the database."""
        # Compared by value: each check of the database sets an equal key again.
        if self.indexed[0] != (self.keys.blind_index, self.keys.has_prefixes):
            self.indexed = self.make_index()
        return self.indexed[1]

    def make_index(self) -> tuple[tuple[bytes, bool], BlindIndex]:
        key, has_prefixes = self.keys.blind_index, self.keys.has_prefixes
        index = BlindIndex(
            key, stores_prefixes=self.stores_prefixes, finds_prefixes=self.stores_prefixes and has_prefixes
        )
        return (key, has_prefixes), index

    @asynccontextmanager
    async def unit_of_work(self, origin: Origin) -> AsyncIterator[UserService]:
        """One transaction: commits when the block ends, then invalidates the changed users and wakes the relay.

        Raises DatabaseUnavailable, and Contended when PostgreSQL rolled it back in favour of another one: run it again.
        """
        service: UserService | None = None
        done = False
        try:
            async with self.primary.session(BEGIN) as session:
                service = UserService(UserRepository(session, self.cipher, self.index), origin)
                yield service
                done = True
        finally:
            # A commit may have succeeded although its response was lost.
            if service is not None and done:
                await self.publish(service.changed_versions)

    @asynccontextmanager
    async def single_statement(self, origin: Origin) -> AsyncIterator[tuple[UserService, StatementRepository]]:
        """The same, with one statement when the block ends, which concurrent ones share. The repository is that of the
        service.

        Raises NotAtOnce where that is not possible: nothing was changed, use `unit_of_work`.
        """
        if await self.primary.is_distributed():
            raise NotAtOnce
        repository = StatementRepository(
            self.primary, self.cipher, self.index, load=self.current.load, commit=self.writes.load
        )
        service = UserService(repository, origin)
        yield service, repository
        await repository.write()
        # What was written is published already. An earlier write of an unchanged user may not have reached the cache.
        if not service.logged:
            await self.publish(service.changed_versions)

    async def write_group(self, writes: Sequence[Write]) -> dict[Write, bool]:
        """Those that were written, which the cache and the relay know of, whether or not their callers still wait."""
        # A commit may have succeeded although its response was lost.
        changed: Collection[Write] = writes
        try:
            written = await write_group(self.primary, writes, self.cipher, self.index)
            changed = written
        finally:
            await self.publish({write.change.user.id: write.change.user.version for write in changed})
        return written

    async def publish(self, versions: Mapping[UUID, int]) -> None:
        """Invalidates changed users in the cache, by their new versions, and wakes the relay."""
        await self.cache.invalidate(versions)
        if versions and self.after_change is not None:
            self.after_change()

    def transaction(self, begin: str = BEGIN) -> AbstractAsyncContextManager[Session]:
        """A transaction that changes no user. Raises DatabaseUnavailable, Contended."""
        return self.primary.session(begin)

    @asynccontextmanager
    async def reading(self, database: Database, begin: str | None = None) -> AsyncIterator["UserSearch"]:
        """A search of users, in a transaction where `begin` starts one. Raises DatabaseUnavailable, Contended."""
        search = await self.search.get()
        async with database.session(begin) as session:
            yield search(session, self.cipher, self.index)

    def named(self, query: SearchQuery) -> list[Named]:
        """The identifiers that a query names."""
        return find_named(query, self.index)

    async def page(self, query: SearchQuery, *, brief: bool = False) -> SearchPage[Row]:
        """The rows of `USER_COLUMNS` of a page of users, or with `brief` their ids and versions, and the times of the
        last changes where these are the order. A page that names an identifier is read from the primary.

        Raises DatabaseUnavailable, Contended.
        """
        if query.names_key:
            async with self.reading(self.primary) as search:
                return await search.page(query, brief=brief)
        return await self.lagging_reads.run(lambda search: search.page(query, brief=brief))

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

    async def export_user(self, user_id: UUID, *, actor_names: ActorNames) -> AsyncGenerator[bytes]:
        """All that is stored about one user as JSON, a piece at a time, in one snapshot. Raises UserNotFound."""
        async with self.transaction(BEGIN_SNAPSHOT) as session:
            await session.wait_for_reader()
            export = PersonalExport(UserRepository(session, self.cipher, self.index))
            async with aclosing(export.pieces(user_id, actor_names=actor_names)) as pieces:
                async for piece in pieces:
                    yield piece

    async def note_export(self, origin: Origin, user_id: UUID | None = None) -> None:
        """Notes in the audit that a user, or many users for None, are exported. Raises UserNotFound."""
        async with self.primary.session() as session:
            if user_id is not None:
                await AuditTrail(session).require_known(user_id)
            await AuditLog(session).note_export(origin, user_id)

    @property
    def pool_stats(self) -> list[PoolStats]:
        """How much of each pool is in use now."""
        return [database.stats for database in (self.primary, self.replica) if database is not None]

    async def close(self) -> None:
        await self.primary.close()
        if self.replica is not None:
            await self.replica.close()
            await self.replica.connector.close()

    async def fill_pool(self) -> None:
        """Opens a few connections for changes ahead of the first one. Raises DatabaseUnavailable."""
        await self.primary.fill()


async def retry_contended(attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of a unit of work, which is run again when PostgreSQL rolled it back in favour of another one.

    Raises Contended after `ATTEMPTS`, and what else `attempt` raises.
    """
    for number in range(1, ATTEMPTS):
        try:
            return await attempt()
        except Contended:
            # A random pause, so that two units of work do not meet again.
            await asyncio.sleep(uniform(0, FIRST_PAUSE_SECONDS * 2**number))  # noqa: S311
    return await attempt()
