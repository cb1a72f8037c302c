"""Reads of users by id, the hot path. This module imports neither FastAPI nor SQLAlchemy nor pydantic.

A read asks the cache in this process, then Redis, then PostgreSQL; the last two through data loaders, so that
concurrent reads share round trips.
"""

from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
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
from user_service.values.time_limits import TimeLimit

# In the order of the parameters of SELECT_BY_KEYS.
IDENTIFIER_KINDS: Final = (EMAIL, EXTERNAL_ID, USERNAME)
SELECT_BY_IDS: Final = (
    f"SELECT {SELECT_LIST}, extract(epoch FROM statement_timestamp())::float8 FROM users WHERE id = ANY($1::uuid[])"  # noqa: S608
)


def select_by_keys(columns: str) -> str:
    """Selects by id, deleted users too, and by identifier, living users. Behind the columns is what found the user.

    The identifiers are read first, and the users by their ids, which is what a database of several servers can do.
    """
    found = " UNION ALL ".join(
        f"SELECT user_id, kind, index FROM identifiers WHERE kind = {kind} AND index = ANY(${place}::bytea[])"  # noqa: S608
        for place, kind in enumerate(IDENTIFIER_KINDS, 2)
    )
    return (
        f"WITH found AS MATERIALIZED ({found}) "  # noqa: S608
        f"SELECT {columns}, NULL::smallint AS kind, NULL::bytea AS index FROM users WHERE id = ANY($1::uuid[])"
        f" UNION ALL SELECT {columns}, kind, index FROM users JOIN found ON id = user_id"
    )


SELECT_BY_KEYS: Final = select_by_keys(SELECT_LIST)
SELECT_VERSIONS_BY_KEYS: Final = select_by_keys("id, version")
# After so many fetches in a row whose users were all cached, the next one reads versions first.
FETCHES_TO_EXPECT_CACHED: Final = 8

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
        # The number of last fetches of sets that found all of their users in this process's cache.
        self.cached_fetches = 0

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
            with TimeLimit(self.pool.seconds):
                return await loading
        except TimeoutError as error:
            raise DatabaseUnavailable from error

    async def fetch(self, ids: list[UUID]) -> Mapping[UUID, Entry | Exception]:
        sent = monotonic()
        rows = await self.pool.fetch(SELECT_BY_IDS, ids)
        if rows:
            self.clock.observe(sent, rows[0][-1])
        return await self.read_entries({row[0]: row[:-1] for row in rows}, sent)

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
        """What all of the sets find together, for each of them.

        Where this process's cache is expected to have all of the users, versions are read alone. If one is missing,
        nothing of this reading is used: all are read with their content.
        """
        sent = monotonic()
        ids = {user_id for wanted in sets for user_id in wanted.ids}
        indexes = [{index for wanted in sets for index in wanted.indexes.get(kind, ())} for kind in IDENTIFIER_KINDS]
        keys = [list(ids), *map(list, indexes)]
        fresh = any(wanted.fresh for wanted in sets)
        if not fresh and self.cached_fetches >= FETCHES_TO_EXPECT_CACHED:
            rows = await self.pool.fetch(SELECT_VERSIONS_BY_KEYS, *keys)
            cached = self.find_versions((row[0], row[1]) for row in rows)
            if all(row[0] in cached for row in rows):
                return dict.fromkeys(sets, Found(cached, {(row[2], row[3]): row[0] for row in rows}))
        rows = await self.pool.fetch(SELECT_BY_KEYS, *keys)
        cached = {} if fresh else self.find_versions((row[ID_PLACE], row[VERSION_PLACE]) for row in rows)
        others = {row[ID_PLACE]: row[:-2] for row in rows if row[ID_PLACE] not in cached}
        self.cached_fetches = 0 if others else self.cached_fetches + 1
        entries = {**cached, **await self.read_entries(others, sent)} if others else cached
        return dict.fromkeys(sets, Found(entries, {(row[-2], row[-1]): row[ID_PLACE] for row in rows}))

    async def read_entries(self, rows: Mapping[UUID, Any], as_of: float) -> dict[UUID, Entry | Exception]:
        """The entries of rows that were requested at `as_of`, and the errors of those that can't be decrypted.

        The entries are cached.
        """
        errors: dict[UUID, Exception] = {}
        new: dict[UUID, Entry] = {}
        for user_id, row in rows.items():
            try:
                user = decode_row(row, self.cipher)
            except DecryptionError as error:
                errors[user_id] = error
            else:
                new[user_id] = Entry(user.version, user.is_deleted, user.to_json(), as_of)
        if new:
            await self.cache.put(new)
        return {**new, **errors}

    def find_versions(self, versions: Iterable[tuple[UUID, int]]) -> dict[UUID, Entry]:
        """The entries of users that this process's cache has in these versions: they save decrypting the rows."""
        return {
            user_id: entry
            for user_id, version in versions
            if (entry := self.cache.get_local(str(user_id))) is not None and entry.version == version
        }
