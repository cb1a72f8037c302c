"""The cache in Redis, shared by the replicas. Redis is optional: without it the responses are right, only slower.

A value is `10-digit version | A or X | 13-digit time | sealed JSON`: an active user or a deleted one, and PostgreSQL's
time in milliseconds at which it was valid. The seal authenticates the part before it. A version fence is `10-digit
version | -`. A value is used for `ttl_seconds` after its time, even if a fence that should have replaced it was lost.
"""

import re
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping
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
from user_service.resilience.circuit_breaker import CircuitBreaker
from user_service.resilience.tls_files import find_unreadable_file

PURPOSE: Final = b"cache"
# Maximum duration of an operation that a request waits for.
BUDGET_SECONDS: Final = 0.05
# Longer than a request waits: the recovery and the subscription have time to connect.
SOCKET_TIMEOUT_SECONDS: Final = 1.0
VERSION_DIGITS, TIME_DIGITS = 10, 13
VALUE_HEAD_BYTES: Final = VERSION_DIGITS + 1 + TIME_DIGITS
# They change with the form of the JSON: a replica of another release passes over values that it does not know.
ACTIVE, DELETED, FENCE = b"A", b"X", b"-"
SCAN_KEYS: Final = 1000
# An invalidation message has an id and a version for each changed user; an empty one invalidates everything.
INVALIDATION: Final = Struct("!16sI")
INVALIDATE_ALL: Final = b""

# Sets each value unless a newer version is there.
PUT_SCRIPT: Final = """
for i, key in ipairs(KEYS) do
  local known = redis.pcall('GETRANGE', key, 0, 9)
  if type(known) ~= 'string' or (tonumber(known) or 0) <= tonumber(string.sub(ARGV[i + 1], 1, 10)) then
    redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1])
  end
end
"""
# The same for fences, and publishes the invalidation message.
# Returns the error where Redis refuses the message; the fences are set all the same.
INVALIDATE_SCRIPT: Final = f"""{PUT_SCRIPT}
local sent = redis.pcall('PUBLISH', ARGV[#KEYS + 2], ARGV[#KEYS + 3])
return type(sent) == 'table' and sent['err'] or ''
"""
# Turns entries into fences of their versions; returns the number of entries.
CLEAR_SCRIPT: Final = """
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
    """A `Cache` in one Redis, every operation within a budget of 50 ms.

    An invalidation that fails is not repeated: this process's own fences reject the old value, and the other replicas
    stop using it `ttl_seconds` after it was valid.
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
        self.prefix = key_prefix(prefix)
        self.channel = channel_name(prefix)
        self.ttl_seconds = ttl_seconds
        self.budget_seconds = budget_seconds
        self.fence_seconds = max(ceil(ttl_seconds), read_seconds)
        self.cipher = cipher
        self.metrics = metrics
        self.redis = connect(url)
        # The last reason for which Redis refused an invalidation.
        self.refusal = ""
        self.put_script = self.redis.register_script(PUT_SCRIPT)
        self.invalidate_script = self.redis.register_script(INVALIDATE_SCRIPT)
        self.clear_script = self.redis.register_script(CLEAR_SCRIPT)
        self.breaker = CircuitBreaker(
            "the cache",
            probe=self.redis.ping,
            count_failure=lambda: metrics.cache_errors.add("recover"),
            explain=lambda: find_unreadable_file(url, "REDIS_URL"),
        )
        # A Redis that was unavailable, restarts or fails over may have none of the fences.
        self.fences = VersionFences(seconds=self.fence_seconds)

    def open(self) -> None: ...

    def get_local(self, id_text: str) -> Entry | None:
        return None

    def get_bodies(self, versions: Iterable[tuple[UUID, int]]) -> list[bytes | None]:
        return [None for _ in versions]

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        if self.breaker.is_open or not self.clock.is_known:
            return {}
        values: Any = await self.attempt("get", self.redis.mget([self.key(user_id) for user_id in ids]))
        pairs = zip(ids, values or (), strict=False)
        found = {user_id: entry for user_id, value in pairs if value and (entry := self.decode(user_id, value))}
        return self.drop_fenced(found)

    async def put(self, entries: Mapping[UUID, Entry]) -> None:
        if self.breaker.is_open or not self.clock.is_known:
            return
        if entries := self.drop_fenced(entries):
            keys = [self.key(user_id) for user_id in entries]
            values = [self.encode(user_id, entry) for user_id, entry in entries.items()]
            await self.attempt("put", self.put_script(keys=keys, args=[ceil(self.ttl_seconds), *values]))

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        self.fences.add(versions)
        changed = {user_id: version for user_id, version in versions.items() if version > 1}
        if changed and not self.breaker.is_open:
            keys = [self.key(user_id) for user_id in changed]
            fences = [b"%010d" % version + FENCE for version in changed.values()]
            message = b"".join(INVALIDATION.pack(user_id.bytes, version) for user_id, version in changed.items())
            script = self.invalidate_script(keys=keys, args=[self.fence_seconds, *fences, self.channel, message])
            refusal = await self.attempt("invalidate", script)
            if refusal:
                self.note_refusal(refusal.decode())

    def note_refusal(self, reason: str) -> None:
        """Counts a message that Redis refused, and logs each reason once. The other replicas' entries expire."""
        self.metrics.cache_errors.add("publish")
        if reason != self.refusal:
            self.refusal = reason
            log.warning("Redis refuses invalidations; `user-service doctor` shows why", extra={"reason": reason})

    def drop_fenced(self, entries: Mapping[UUID, Entry]) -> dict[UUID, Entry]:
        minimum_version = self.fences.minimum_version
        return {user_id: entry for user_id, entry in entries.items() if entry.version >= minimum_version(user_id)}

    async def clear(self) -> int:
        """Drops the entries in Redis. What is not dropped because Redis fails expires by itself."""
        if self.breaker.is_open:
            return 0
        dropped = 0
        try:
            async for keys in self.scan_keys():
                dropped += int(await self.clear_script(keys=keys, args=[self.fence_seconds]))
            await self.redis.publish(self.channel, INVALIDATE_ALL)
        except Exception as error:
            self.fail("clear", error)
        return dropped

    async def statistics(self) -> dict[str, Any]:
        return {"tier": self.tier, "available": await self.ping(), "ttl_seconds": self.ttl_seconds}

    async def ping(self) -> bool:
        """Whether Redis responds now, and the circuit breaker is closed."""
        return not self.breaker.is_open and bool(await self.attempt("ping", self.redis.ping()))

    async def close(self) -> None:
        await self.breaker.close()
        await self.redis.aclose()

    async def attempt(self, operation: str, call: Awaitable[T]) -> T | None:
        """The result of a call, or None if it fails in any way or exceeds the budget."""
        try:
            with self.traced(operation):
                async with timeout(self.budget_seconds):
                    result = await call
        except Exception as error:
            self.fail(operation, error)
            return None
        self.breaker.record_success()
        return result

    def fail(self, operation: str, error: Exception) -> None:
        self.metrics.cache_errors.add(operation)
        self.breaker.record_failure(error)

    async def scan_keys(self) -> AsyncIterator[list[bytes]]:
        keys: list[bytes] = []
        async for key in self.redis.scan_iter(match=escape_pattern(self.prefix) + b"*", count=SCAN_KEYS):
            keys.append(key)
            if len(keys) == SCAN_KEYS:
                yield keys
                keys = []
        if keys:
            yield keys

    def key(self, user_id: UUID) -> bytes:
        return self.prefix + user_id.hex.encode()

    def encode(self, user_id: UUID, entry: Entry) -> bytes:
        state = DELETED if entry.deleted else ACTIVE
        head = b"%010d%b%013d" % (entry.version, state, int(self.clock.to_database_time(entry.as_of) * 1000))
        return head + self.cipher.seal(entry.body, purpose=PURPOSE + head, user_id=user_id.bytes)

    def decode(self, user_id: UUID, value: bytes) -> Entry | None:
        """The entry of a value; None for a fence, an expired value, and anything that this service did not write."""
        head, sealed = value[:VALUE_HEAD_BYTES], value[VALUE_HEAD_BYTES:]
        version, state, time = head[:VERSION_DIGITS], head[VERSION_DIGITS:-TIME_DIGITS], head[-TIME_DIGITS:]
        if state not in (ACTIVE, DELETED) or not version.isdigit() or not time.isdigit():
            return None
        as_of = self.clock.to_monotonic(int(time) / 1000)
        if as_of + self.ttl_seconds < monotonic():
            return None
        try:
            body = self.cipher.open(sealed, purpose=PURPOSE + head, user_id=user_id.bytes)
        except DecryptionError:
            self.metrics.cache_errors.add("decrypt")
            return None
        return Entry(int(version), state == DELETED, body, as_of)


def key_prefix(prefix: str) -> bytes:
    return f"{prefix}user:".encode()


def channel_name(prefix: str) -> str:
    """The channel of the invalidations."""
    return f"{prefix}invalidations"


def connect(url: str, *, retries: int = 1) -> Redis:
    """A client that is not connected yet. By default it tries twice, since a pooled connection may be dead.

    Raises ConfigurationError.
    """
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), retries),
        )
    except ValueError:
        raise ConfigurationError("REDIS_URL is not a URL that a Redis client understands.") from None


def escape_pattern(prefix: bytes) -> bytes:
    """A prefix escaped for a pattern of SCAN."""
    return re.sub(rb"([][*?^\\-])", rb"\\\1", prefix)
