"""The cache in Redis, shared by the replicas. Redis is an accelerator: whatever it does, the answers stay right.

A value is `10-digit version | L or D | 13-digit time | sealed JSON`: a living user or a deleted one, and a time of
PostgreSQL's, in milliseconds, at which it was true. The seal covers what stands before it. `10-digit version | -` is
the marker of a forgotten one. A value is believed for `ttl_seconds` after its time, whatever became of the markers
that should have replaced it.
"""

import re
from asyncio import Task, create_task, sleep, timeout
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from itertools import islice
from math import ceil
from struct import Struct
from time import monotonic
from typing import Any, Final, TypeVar
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from user_service.cache.base import Entry, Footprint, VersionFences
from user_service.encryption.cipher import Cipher, DecryptionError
from user_service.errors import ConfigurationError
from user_service.observability.logging import log
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.postgres.clock import DatabaseClock

PURPOSE: Final = b"cache"
BUDGET_SECONDS: Final = 0.05
# Away from requests there is time enough for a new connection.
PATIENCE_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.5
FAILURES_TO_GIVE_UP: Final = 3
VERSION_DIGITS, TIME_DIGITS = 10, 13
HEAD_BYTES: Final = VERSION_DIGITS + 1 + TIME_DIGITS
LIVING, DELETED, FORGOTTEN = b"L", b"D", b"-"
MAX_OWED: Final = 100_000
MANY_KEYS: Final = 1000
# What is told to the other replicas: an id and a version for each that was forgotten; nothing for all of them.
TOLD: Final = Struct("!16sI")
EVERYTHING: Final = b""

# Sets each value unless a newer version is there.
STORE_UNLESS_NEWER: Final = """
for i, key in ipairs(KEYS) do
  local known = redis.pcall('GETRANGE', key, 0, 9)
  if type(known) ~= 'string' or (tonumber(known) or 0) <= tonumber(string.sub(ARGV[i + 1], 1, 10)) then
    redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1])
  end
end
"""
# The same, and tells who listens.
FORGET: Final = f"{STORE_UNLESS_NEWER} redis.pcall('PUBLISH', ARGV[#KEYS + 2], ARGV[#KEYS + 3])"
# Turns entries into markers of their versions; returns how many there were.
FORGET_ALL: Final = """
local dropped = 0
for _, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, 10)
  if type(head) == 'string' and head ~= '' and string.sub(head, 11) ~= '-' then
    redis.call('SET', key, string.sub(head, 1, 10) .. '-', 'EX', ARGV[1])
    dropped = dropped + 1
  end
end
return dropped
"""

T = TypeVar("T")


class RedisCache:
    """A `Cache` over one Redis, every operation within a budget of 50 ms.

    While Redis is away, or has not forgotten all that it must, only a task in the background asks it anything.
    """

    tier = "redis"
    local_tier = "none"
    footprint = Footprint()

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        ttl_seconds: float,
        read_seconds: int,
        cipher: Cipher,
        metrics: Metrics,
        clock: DatabaseClock,
        budget_seconds: float = BUDGET_SECONDS,
        traced: Traced = untraced,
    ) -> None:
        self.traced = traced
        self.clock = clock
        self.prefix = f"{prefix}user:".encode()
        self.channel = f"{prefix}forgotten"
        self.ttl_seconds = ttl_seconds
        self.budget_seconds = budget_seconds
        self.marker_seconds = max(ceil(ttl_seconds), read_seconds)
        self.cipher = cipher
        self.metrics = metrics
        self.redis = connect(url)
        self.store = self.redis.register_script(STORE_UNLESS_NEWER)
        self.put_markers = self.redis.register_script(FORGET)
        self.forget_all = self.redis.register_script(FORGET_ALL)
        self.failures = 0
        self.recovery: Task[None] | None = None
        # A Redis that fails over or restarts can come back with what it had forgotten.
        self.marks = VersionFences(seconds=self.marker_seconds)
        self.owed: dict[UUID, int] = {}
        self.owes_all = False

    @property
    def is_away(self) -> bool:
        return self.recovery is not None

    def open(self) -> None: ...

    def get_local(self, written: str) -> Entry | None:
        return None

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        if self.is_away or not self.clock.is_known:
            return {}
        values: Any = await self.attempt("get", self.redis.mget([self.key(user_id) for user_id in ids]))
        pairs = zip(ids, values or (), strict=False)
        found = {user_id: entry for user_id, value in pairs if value and (entry := self.entry_of(user_id, value))}
        return self.drop_fenced(found)

    async def fill(self, entries: Mapping[UUID, Entry]) -> None:
        if self.is_away or not self.clock.is_known:
            return
        values = {user_id: self.value_of(user_id, entry) for user_id, entry in self.drop_fenced(entries).items()}
        if values:
            await self.attempt("fill", self.put(values))

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        self.marks.add(versions)
        changed = {user_id: version for user_id, version in versions.items() if version > 1}
        if not changed:
            return
        if self.is_away or not await self.attempt("forget", self.mark(changed)):
            self.owe(changed)
            self.recover()

    def drop_fenced(self, entries: Mapping[UUID, Entry]) -> dict[UUID, Entry]:
        return {user_id: entry for user_id, entry in entries.items() if entry.version >= self.marks.version_of(user_id)}

    async def clear(self) -> int:
        try:
            if not self.is_away:
                return await self.drop_all()
        except Exception:
            self.metrics.cache_errors.add("clear")
        self.owes_all = True
        self.recover()
        return 0

    async def drop_all(self) -> int:
        dropped = 0
        async for keys in self.own_keys():
            dropped += int(await self.forget_all(keys=keys, args=[self.marker_seconds]))
        await self.redis.publish(self.channel, EVERYTHING)
        return dropped

    async def statistics(self) -> dict[str, Any]:
        answers = await self.ping()
        return {
            "tier": self.tier,
            "available": answers,
            "owed": len(self.owed),
            "ttl_seconds": self.ttl_seconds,
        }

    async def ping(self) -> bool:
        """Whether Redis answers now, and may be asked."""
        return not self.is_away and bool(await self.attempt("ping", self.redis.ping()))

    async def close(self) -> None:
        if self.recovery is not None:
            self.recovery.cancel()
            await self.settle()
        await self.redis.aclose()

    async def attempt(self, operation: str, call: Awaitable[T]) -> T | None:
        """The result of a call, or None when it fails, in whatever way, or takes too long."""
        try:
            with self.traced(operation):
                async with timeout(self.budget_seconds):
                    result = await call
        except Exception as error:
            self.metrics.cache_errors.add(operation)
            self.failures += 1
            if self.failures >= FAILURES_TO_GIVE_UP:
                self.recover(reason=type(error).__name__)
            return None
        self.failures = 0
        return result

    def recover(self, *, reason: str = "could not forget") -> None:
        """Leaves Redis alone until it is well again."""
        if self.recovery is None:
            log.warning("going on without Redis", extra={"reason": reason})
            self.recovery = create_task(self.wait_until_well())

    async def wait_until_well(self) -> None:
        well = await self.settle()
        while not well:
            await sleep(PAUSE_SECONDS)
            well = await self.settle()
        self.failures, self.recovery = 0, None
        log.info("Redis is back")

    async def settle(self) -> bool:
        """Whether Redis answers and has forgotten all that it must."""
        try:
            async with timeout(PATIENCE_SECONDS):
                await self.redis.ping()
            if self.owes_all:
                await self.drop_all()
                self.owes_all = False
            while self.owed:
                paid = dict(islice(self.owed.items(), MANY_KEYS))
                async with timeout(PATIENCE_SECONDS):
                    await self.mark(paid)
                for user_id, version in paid.items():
                    if self.owed.get(user_id) == version:
                        del self.owed[user_id]
        except Exception:
            self.metrics.cache_errors.add("recover")
            return False
        return not self.owes_all

    def owe(self, versions: Mapping[UUID, int]) -> None:
        for user_id, version in versions.items():
            self.owed[user_id] = max(version, self.owed.get(user_id, 0))
        if len(self.owed) > MAX_OWED:
            self.owes_all = True
            self.owed.clear()

    async def put(self, values: Mapping[UUID, bytes]) -> None:
        await self.store(
            keys=[self.key(user_id) for user_id in values], args=[ceil(self.ttl_seconds), *values.values()]
        )

    async def mark(self, versions: Mapping[UUID, int]) -> bool:
        """Puts markers in the place of what is older, and tells the other replicas, in one step."""
        keys = [self.key(user_id) for user_id in versions]
        markers = [b"%010d" % version + FORGOTTEN for version in versions.values()]
        told = b"".join(TOLD.pack(user_id.bytes, version) for user_id, version in versions.items())
        await self.put_markers(keys=keys, args=[self.marker_seconds, *markers, self.channel, told])
        return True

    async def own_keys(self) -> AsyncIterator[list[bytes]]:
        keys: list[bytes] = []
        async for key in self.redis.scan_iter(match=escaped(self.prefix) + b"*", count=MANY_KEYS):
            keys.append(key)
            if len(keys) == MANY_KEYS:
                yield keys
                keys = []
        if keys:
            yield keys

    def key(self, user_id: UUID) -> bytes:
        return self.prefix + user_id.hex.encode()

    def value_of(self, user_id: UUID, entry: Entry) -> bytes:
        state = DELETED if entry.deleted else LIVING
        head = b"%010d%b%013d" % (entry.version, state, int(self.clock.time_of(entry.as_of) * 1000))
        return head + self.cipher.seal(entry.body, purpose=PURPOSE + head, user_id=user_id.bytes)

    def entry_of(self, user_id: UUID, value: bytes) -> Entry | None:
        """The entry of a value; None for a marker, one that is too old, and what somebody else may have put there."""
        head, sealed = value[:HEAD_BYTES], value[HEAD_BYTES:]
        version, state, time = head[:VERSION_DIGITS], head[VERSION_DIGITS:-TIME_DIGITS], head[-TIME_DIGITS:]
        if state not in (LIVING, DELETED) or not version.isdigit() or not time.isdigit():
            return None
        as_of = self.clock.moment_of(int(time) / 1000)
        if as_of + self.ttl_seconds < monotonic():
            return None
        try:
            body = self.cipher.open(sealed, purpose=PURPOSE + head, user_id=user_id.bytes)
        except DecryptionError:
            self.metrics.cache_errors.add("decrypt")
            return None
        return Entry(int(version), state == DELETED, body, as_of)


def connect(url: str, *, retries: int = 1) -> Redis:
    """A client that has not connected yet, and by default tries twice at once, since a kept connection may have died.

    Raises ConfigurationError.
    """
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS,
            retry=Retry(NoBackoff(), retries),
        )
    except ValueError:
        raise ConfigurationError("REDIS_URL is not a URL that a Redis client understands.") from None


def escaped(prefix: bytes) -> bytes:
    """A prefix as it stands in a pattern of SCAN."""
    return re.sub(rb"([][*?^\\-])", rb"\\\1", prefix)
