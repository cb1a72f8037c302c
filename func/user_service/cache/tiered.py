"""A cache in this process in front of the one in Redis.

Every forget is told on a channel of Redis, and the other replicas drop what they hold. What they don't hear ends by
itself: an entry carries the moment that it is of through both tiers, and none is believed for longer than
`MAX_STALENESS_SECONDS` after it. docs/adr/0007-two-tiers.md goes through the failures.
"""

from asyncio import Task, create_task, sleep, wait
from collections.abc import Collection, Mapping
from math import inf
from time import monotonic
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis

from user_service.cache.base import Entry, Footprint, MemoryCache
from user_service.cache.redis import EVERYTHING, PAUSE_SECONDS, TOLD, RedisCache
from user_service.observability.logging import log

# A channel that says nothing for this long is asked for a sign, and given up when the sign does not come in as long.
SILENCE_SECONDS: Final = 1.0


class TieredCache:
    """A `Cache` over two others. `channel_client` is for the subscription, and never connects again by itself."""

    tier = "redis"
    local_tier = "memory"

    def __init__(self, local: MemoryCache, shared: RedisCache, channel_client: Redis) -> None:
        self.local = local
        self.shared = shared
        self.channel_client = channel_client
        # The moment since which everything that other replicas forget is heard; what is older is not kept here.
        self.heard_since = inf
        self.listening: Task[None] | None = None
        self.closed = False

    @property
    def footprint(self) -> Footprint:
        return self.local.footprint

    @property
    def hears(self) -> bool:
        return self.heard_since < inf

    def open(self) -> None:
        self.listening = create_task(self.listen())

    def get_local(self, written: str) -> Entry | None:
        return self.local.get_local(written)

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        found = await self.local.get(ids)
        if missing := [user_id for user_id in ids if user_id not in found]:
            shared = await self.shared.get(missing)
            await self.keep(shared)
            found |= shared
        return found

    async def fill(self, entries: Mapping[UUID, Entry]) -> None:
        await self.keep(entries)
        await self.shared.fill(entries)

    async def keep(self, entries: Mapping[UUID, Entry]) -> None:
        await self.local.fill({user_id: entry for user_id, entry in entries.items() if entry.as_of >= self.heard_since})

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        await self.local.invalidate(versions)
        await self.shared.invalidate(versions)

    async def clear(self) -> int:
        dropped = self.local.drop_all()
        return max(dropped, await self.shared.clear())

    async def statistics(self) -> dict[str, Any]:
        local = await self.local.statistics()
        return {**local, **await self.shared.statistics(), "hears_replicas": self.hears}

    async def close(self) -> None:
        self.closed = True
        if self.listening is not None:
            self.listening.cancel()
            await wait([self.listening])
        await self.channel_client.aclose()
        await self.shared.close()

    async def listen(self) -> None:
        # A client in trouble may turn a cancellation into its own error, so that `closed` has to say it too.
        while not self.closed:
            try:
                await self.hear()
            except Exception as error:
                if self.hears:
                    log.warning("going on without the local cache", extra={"reason": type(error).__name__})
            finally:
                self.heard_since = inf
                self.local.drop_all()
            if not self.closed:
                await sleep(PAUSE_SECONDS)

    async def hear(self) -> None:
        """Subscribes, and drops what is told. Ends by the error of a channel that is lost."""
        async with self.channel_client.pubsub() as channel:
            await channel.subscribe(self.shared.channel)
            asked = False
            while not self.closed:
                message = await channel.get_message(timeout=SILENCE_SECONDS)
                if message is None and asked:
                    raise TimeoutError
                asked = message is None
                if message is None:
                    await channel.ping()
                elif message["type"] == "subscribe":
                    self.heard_since = monotonic()
                    self.local.drop_all()
                elif message["type"] == "message":
                    await self.drop(message["data"])

    async def drop(self, told: bytes) -> None:
        if told == EVERYTHING or len(told) % TOLD.size:
            self.local.drop_all()
        else:
            await self.local.invalidate({UUID(bytes=raw): version for raw, version in TOLD.iter_unpack(told)})
