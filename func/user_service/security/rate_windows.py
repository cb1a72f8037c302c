"""The windows that requests are counted in, by the `limits` library: in Redis for all replicas, or in this process.

A sliding window of two counters: its cost does not grow with the limit. While Redis is away or slower than 50 ms, each
replica counts for itself.
"""

from asyncio import timeout
from time import time
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute, WindowStats
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from user_service.cache.circuit_breaker import CircuitBreaker
from user_service.cache.redis import BUDGET_SECONDS
from user_service.observability.metrics import Metrics
from user_service.settings import Settings

SWEEP_SECONDS: Final = 10.0


class LocalStorage(MemoryStorage):
    """The library's storage in memory, which would look at every key at every request; this one does now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.sweep_at = 0.0

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time()
        self.sweep(now)
        if self.expirations.get(key, 0.0) <= now:
            self.storage.pop(key, None)
        self.storage[key] += amount
        self.expirations.setdefault(key, now + expiry)
        return self.storage[key]

    def sweep(self, now: float) -> None:
        if now < self.sweep_at:
            return
        self.sweep_at = now + SWEEP_SECONDS
        for key in [key for key, expires_at in self.expirations.items() if expires_at <= now]:
            del self.expirations[key]
            self.storage.pop(key, None)


class RateWindows:
    """A window for each name."""

    def __init__(self, settings: Settings, metrics: Metrics, *, budget_seconds: float = BUDGET_SECONDS) -> None:
        self.metrics = metrics
        self.budget_seconds = budget_seconds
        self.local = SlidingWindowCounterRateLimiter(LocalStorage())
        self.pool: ConnectionPool | None = None
        if settings.redis_url is not None:
            timeouts = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}
            self.pool = ConnectionPool.from_url(settings.redis_url, **timeouts)
            prefix = f"{settings.redis_key_prefix}rate"
            storage = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=prefix,
                connection_pool=self.pool,  # type: ignore[arg-type]  # documented, but not in its types
            )
            self.shared = SlidingWindowCounterRateLimiter(storage)
            probe = Redis(connection_pool=self.pool).ping
            self.breaker = CircuitBreaker("rate limits", probe=probe, count_failure=metrics.rate_limit_errors.add)

    async def take(self, limit: int, name: str, cost: int, *, at_least: int) -> tuple[int, WindowStats]:
        """Takes `cost` of a limit per minute, or else `at_least`; gives what it took, or 0, and the window's state."""
        item = RateLimitItemPerMinute(limit)
        if self.pool is not None and not self.breaker.is_open:
            try:
                async with timeout(self.budget_seconds):
                    taken = await take_from(self.shared, item, name, cost, at_least)
                self.breaker.record_success()
                return taken
            except (RedisError, OSError) as error:
                self.breaker.record_failure(error)
                self.metrics.rate_limit_errors.add()
        return await take_from(self.local, item, name, cost, at_least)

    async def close(self) -> None:
        if self.pool is not None:
            await self.breaker.close()
            await self.pool.aclose()


async def take_from(
    windows: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str, cost: int, at_least: int
) -> tuple[int, WindowStats]:
    taken = 0
    for amount in dict.fromkeys((cost, at_least)):
        if not taken and await windows.hit(item, name, cost=amount):
            taken = amount
    return taken, await windows.get_window_stats(item, name)
