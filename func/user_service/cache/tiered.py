"""A cache in this process in front of the one in Redis.

Every invalidation is published on a Redis channel, and the other replicas drop the entry. Lost messages are bounded by
age: an entry keeps its `as_of` through both tiers, and no replica uses it for longer than `MAX_STALENESS_SECONDS` after
that. docs/adr/0007-two-tiers.md lists the failures.
"""

from asyncio import Task, create_task, sleep, wait
from collections.abc import Collection, Iterable, Mapping
from math import inf
from time import monotonic
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis

from user_service.cache.base import Entry, Footprint
from user_service.cache.memory import MemoryCache
from user_service.cache.redis import INVALIDATE_ALL, INVALIDATION, RedisCache
from user_service.observability.logging import log
from user_service.resilience.circuit_breaker import describe_error

# A channel that is silent for this long is pinged, and abandoned if it is silent for as long again.
SILENCE_SECONDS: Final = 1.0
RESUBSCRIBE_PAUSE_SECONDS: Final = 0.5


class TieredCache:
    """A `Cache` over two others. `channel_client` is for the subscription, and must not reconnect by itself."""

    tier = "redis"
    local_tier = "memory"

    def __init__(self, local: MemoryCache, shared: RedisCache, channel_client: Redis) -> None:
        self.local = local
        self.shared = shared
        self.channel_client = channel_client
        # Since then every message of the other replicas has been received; older entries are not stored locally.
        self.subscribed_since = inf
        self.subscription: Task[None] | None = None
        self.closing = False
        # Why the last subscription failed or ended.
        self.reason = ""

    @property
    def footprint(self) -> Footprint:
        return self.local.footprint

    @property
    def is_subscribed(self) -> bool:
        return self.subscribed_since < inf

    def open(self) -> None:
        self.subscription = create_task(self.keep_subscribed())

    def get_local(self, id_text: str) -> Entry | None:
        return self.local.get_local(id_text)

    def get_bodies(self, versions: Iterable[tuple[UUID, int]]) -> list[bytes | None]:
        return self.local.get_bodies(versions)

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        found = await self.local.get(ids)
        if missing := [user_id for user_id in ids if user_id not in found]:
            shared = await self.shared.get(missing)
            await self.put_local(shared)
            found |= shared
        return found

    async def put(self, entries: Mapping[UUID, Entry]) -> None:
        await self.put_local(entries)
        await self.shared.put(entries)

    async def put_local(self, entries: Mapping[UUID, Entry]) -> None:
        since = self.subscribed_since
        await self.local.put({user_id: entry for user_id, entry in entries.items() if entry.as_of >= since})

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        await self.local.invalidate(versions)
        await self.shared.invalidate(versions)

    async def clear(self) -> int:
        dropped = self.local.drop_all()
        return max(dropped, await self.shared.clear())

    async def statistics(self) -> dict[str, Any]:
        local = await self.local.statistics()
        return {**local, **await self.shared.statistics(), "subscribed": self.is_subscribed}

    async def close(self) -> None:
        self.closing = True
        if self.subscription is not None:
            self.subscription.cancel()
            await wait([self.subscription])
        await self.channel_client.aclose()
        await self.shared.close()

    async def keep_subscribed(self) -> None:
        # A client may turn a cancellation into an error of its own, so the flag ends the task too.
        while not self.closing:
            try:
                await self.receive_messages()
            except Exception as error:
                reason = self.shared.breaker.explain() or describe_error(error)
                # Also where there was never a subscription, as without permission for the channel.
                if self.is_subscribed or reason != self.reason:
                    log.warning("going on without the local cache", extra={"reason": reason})
                self.reason = reason
            finally:
                self.subscribed_since = inf
                self.local.drop_all()
            if not self.closing:
                await sleep(RESUBSCRIBE_PAUSE_SECONDS)

    async def receive_messages(self) -> None:
        """Subscribes, and applies every message. Ends with the error of a lost channel."""
        async with self.channel_client.pubsub() as channel:
            await channel.subscribe(self.shared.channel)
            pinged = False
            while not self.closing:
                message = await channel.get_message(timeout=SILENCE_SECONDS)
                if message is None and pinged:
                    raise TimeoutError
                pinged = message is None
                if message is None:
                    await channel.ping()
                elif message["type"] == "subscribe":
                    self.subscribed_since = monotonic()
                    self.local.drop_all()
                elif message["type"] == "message":
                    await self.apply_invalidation(message["data"])

    async def apply_invalidation(self, message: bytes) -> None:
        if message == INVALIDATE_ALL or len(message) % INVALIDATION.size:
            self.local.drop_all()
        else:
            items = INVALIDATION.iter_unpack(message)
            await self.local.invalidate({UUID(bytes=raw): version for raw, version in items})
