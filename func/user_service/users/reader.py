"""Reads of users by id, the hot path. This module imports neither FastAPI nor SQLAlchemy nor pydantic.

A read asks the cache in this process, then Redis, then PostgreSQL; the last two through data loaders, so that
concurrent reads share round trips.
"""

from asyncio import timeout
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar
from uuid import UUID

from user_service.cache.base import Cache, Entry
from user_service.cache.dataloader import DataLoader
from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME
from user_service.encryption.cipher import Cipher, DecryptionError
from user_service.errors import DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.clock import DatabaseClock
from user_service.postgres.pool import ReadPool
from user_service.users.encrypted_columns import ID_PLACE, SELECT_LIST, VERSION_PLACE, decode_row
from user_service.values.ids import parse_id

# In the order of the parameters of SELECT_BY_KEYS.
IDENTIFIER_KINDS: Final = (EMAIL, EXTERNAL_ID, USERNAME)
SELECT_BY_IDS: Final = (
    f"SELECT {SELECT_LIST}, extract(epoch FROM statement_timestamp())::float8 FROM users WHERE id = ANY($1::uuid[])"  # noqa: S608
)
# By id, deleted users too; by identifier, living users. Behind the columns of `decode_row` is what found the user.
# The identifiers are read first, and the users by their ids, which is what a database of several servers can do.
SELECT_BY_KEYS: Final = (
    "WITH found AS MATERIALIZED ("  # noqa: S608
    + " UNION ALL ".join(
        f"SELECT user_id, kind, index FROM identifiers WHERE kind = {kind} AND index = ANY(${place}::bytea[])"  # noqa: S608
        for place, kind in enumerate(IDENTIFIER_KINDS, 2)
    )
    + f") SELECT {SELECT_LIST}, NULL::smallint AS kind, NULL::bytea AS index FROM users WHERE id = ANY($1::uuid[])"  # noqa: S608
    f" UNION ALL SELECT {SELECT_LIST}, kind, index FROM users JOIN found ON id = user_id"
)


# Sets of at most so many keys share a statement, and so many sets one.
SHARED_KEYS: Final = 20
SHARED_SETS: Final = 50
# Redis stores this number of entries well within its time limit.
WARMED_AT_ONCE: Final = 250

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """Ids, and indexes of identifiers by kind. `fresh`: what the cache has is not used."""

    ids: Collection[UUID]
    indexes: Mapping[int, Collection[bytes]]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The users of a set of keys: cache entries by id, and the ids by kind and index of the identifiers."""

    entries: Mapping[UUID, Entry | Exception]
    by_identifier: Mapping[tuple[int, bytes], UUID]


class UserReader:
    """Reads users as cache entries, which hold the JSON of the response."""

    def __init__(
        self, pool: ReadPool, cache: Cache, cipher: Cipher, metrics: Metrics, *, clock: DatabaseClock | None = None
    ) -> None:
        self.pool = pool
        self.cache = cache
        self.cipher = cipher
        self.clock = clock or DatabaseClock()
        self.tier, self.local_tier = (cache.tier,), (cache.local_tier,)
        metrics.cache_hits.begin(cache.local_tier)
        self.hits = metrics.cache_hits.begin(cache.tier)
        self.misses = metrics.cache_misses.begin(cache.tier)
        self.cached: DataLoader[UUID, Entry] = DataLoader(cache.get)
        self.stored: DataLoader[UUID, Entry] = DataLoader(self.fetch)
        self.sets: DataLoader[KeySet, Found] = DataLoader(self.fetch_sets, batch=SHARED_SETS)

    def get_local(self, user_id: str) -> Entry | None:
        """A user in the cache of this process, deleted or not, by the id as `str` writes it."""
        entry = self.cache.get_local(user_id)
        if entry is not None:
            self.hits[self.local_tier] += 1
        return entry

    async def is_cached(self, id_text: str) -> bool:
        """Whether `read` will find a user in a cache."""
        if self.cache.get_local(id_text) is not None:
            return True
        user_id = parse_id(id_text) if self.cache.tier == "redis" else None
        return user_id is not None and await self.cached.load(user_id) is not None

    async def read(self, user_id: UUID, *, fresh: bool = False) -> Entry | None:
        """A user, deleted or not; None when there is none. `fresh` reads from the database.

        Raises DatabaseUnavailable when the database is needed and unavailable.
        """
        if not fresh:
            if (entry := self.get_local(str(user_id))) is not None:
                return entry
            if self.cache.tier == "redis" and (entry := await self.cached.load(user_id)) is not None:
                self.hits[self.tier] += 1
                return entry
            self.misses[self.tier] += 1
        return await self.wait(self.stored.load(user_id))

    async def find_one(self, kind: int, index: bytes) -> Entry | None:
        """The living user of an identifier. Raises DatabaseUnavailable, DecryptionError."""
        found = await self.find((), {kind: (index,)}, fresh=False)
        user_id = found.by_identifier.get((kind, index))
        entry = found.entries[user_id] if user_id is not None else None
        if isinstance(entry, Exception):
            raise entry
        return entry

    async def wait(self, loading: Awaitable[T]) -> T:
        try:
            async with timeout(self.pool.seconds):
                return await loading
        except TimeoutError as error:
            raise DatabaseUnavailable from error

    async def fetch(self, ids: list[UUID]) -> Mapping[UUID, Entry | Exception]:
        sent = monotonic()
        rows = await self.pool.fetch(SELECT_BY_IDS, ids)
        if rows:
            self.clock.observe(sent, rows[0][-1])
        return await self.read_entries({row[0]: row[:-1] for row in rows}, sent, fresh=True)

    async def warm(self, ids: Sequence[UUID]) -> int:
        """Reads users into the cache, in small batches so that other tasks run in between; returns their number.

        Raises DatabaseUnavailable.
        """
        warmed = 0
        for begin in range(0, len(ids), WARMED_AT_ONCE):
            entries = await self.fetch(list(ids[begin : begin + WARMED_AT_ONCE]))
            warmed += sum(isinstance(entry, Entry) for entry in entries.values())
        return warmed

    async def find(self, ids: Collection[UUID], indexes: Mapping[int, Collection[bytes]], *, fresh: bool) -> Found:
        """Users by their ids, and by the `indexes` of their identifiers, by kind: one read from the cache, and one from
        the database for what the cache lacks, which small sets of concurrent requests share. May have other users too.

        `fresh` reads from the database alone. Raises DatabaseUnavailable.
        """
        cached: Mapping[UUID, Entry] = {}
        if ids and not fresh:
            cached = await self.cache.get(ids)
            self.hits[self.tier] += len(cached)
            self.misses[self.tier] += len(ids) - len(cached)
        missing = [user_id for user_id in ids if user_id not in cached]
        size = len(missing) + sum(map(len, indexes.values()))
        if not size:
            return Found(cached, {})
        wanted = KeySet(missing, indexes, fresh)
        if size <= SHARED_KEYS:
            found = await self.wait(self.sets.load(wanted))
            assert found is not None
        else:
            found = (await self.fetch_sets([wanted]))[wanted]
        return Found({**found.entries, **cached}, found.by_identifier) if cached else found

    async def fetch_sets(self, sets: Sequence[KeySet]) -> Mapping[KeySet, Found]:
        """What all of the sets find together, for each of them."""
        sent = monotonic()
        ids = {user_id for keys in sets for user_id in keys.ids}
        indexes = [{index for keys in sets for index in keys.indexes.get(kind, ())} for kind in IDENTIFIER_KINDS]
        rows = await self.pool.fetch(SELECT_BY_KEYS, list(ids), *map(list, indexes))
        fresh = any(keys.fresh for keys in sets)
        entries = await self.read_entries({row[0]: row[:-2] for row in rows}, sent, fresh=fresh)
        return dict.fromkeys(sets, Found(entries, {(row[-2], row[-1]): row[0] for row in rows}))

    async def read_entries(
        self, rows: Mapping[UUID, Any], as_of: float, *, fresh: bool
    ) -> dict[UUID, Entry | Exception]:
        """The entries of rows that were requested at `as_of`, and the errors of those that can't be decrypted.

        Those that this process has in their version are used as they are, unless `fresh`. The others are cached.
        """
        entries: dict[UUID, Entry | Exception] = {}
        new: dict[UUID, Entry] = {}
        for user_id, row in rows.items():
            entry = None if fresh else self.find_version(row)
            if entry is None:
                try:
                    user = decode_row(row, self.cipher)
                except DecryptionError as error:
                    entries[user_id] = error
                    continue
                entry = new[user_id] = Entry(user.version, user.is_deleted, user.to_json(), as_of)
            entries[user_id] = entry
        if new:
            await self.cache.put(new)
        return entries

    def find_version(self, row: Any) -> Entry | None:
        """The entry of a row in this process's cache, in the row's version: it saves decrypting the row."""
        entry = self.cache.get_local(str(row[ID_PLACE]))
        return entry if entry is not None and entry.version == row[VERSION_PLACE] else None
