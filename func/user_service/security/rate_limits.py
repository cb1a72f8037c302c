"""How many requests a principal may make in a minute (docs/limits.md), by the `limits` library.

A sliding window of two counters, in Redis for all replicas: its cost does not grow with the limit. While Redis is
unavailable or slower than 50 ms, each replica counts for itself. A principal without a limit costs nothing.
"""

import time
from asyncio import timeout
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

from user_service.errors import RateLimited
from user_service.observability.metrics import Metrics
from user_service.resilience.circuit_breaker import CircuitBreaker
from user_service.security.authentication import Principal
from user_service.settings import Settings
from user_service.values.deferred import Deferred

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

WINDOW_SECONDS: Final = 60
ITEMS_PER_COST: Final = 100
REDIS_BUDGET_SECONDS: Final = 0.05


class Usage(NamedTuple):
    """Whether a request was granted, how many more would be, and the seconds until that number grows."""

    granted: bool
    remaining: int
    reset_seconds: float


class Windows:
    """The windows of all principals. Imports `limits` and the Redis client: make it on a worker thread."""

    def __init__(self, settings: Settings, metrics: Metrics, *, budget_seconds: float) -> None:
        from limits.aio.storage import MemoryStorage, RedisStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from redis.exceptions import RedisError

        from user_service.cache.redis import connect

        self.budget_seconds = budget_seconds
        self.metrics = metrics
        # What a call of Redis raises; TimeoutError is an OSError.
        self.redis_errors: tuple[type[Exception], ...] = (RedisError, OSError)
        self.local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self.shared: SlidingWindowCounterRateLimiter | None = None
        if settings.redis_url is not None:
            self.redis = connect(settings.redis_url)
            storage = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=f"{settings.redis_key_prefix}rate",
                connection_pool=self.redis.connection_pool,  # type: ignore[arg-type]  # documented, not in its types
            )
            self.shared = SlidingWindowCounterRateLimiter(storage)
            self.breaker = CircuitBreaker(
                "rate limits", probe=self.redis.ping, count_failure=metrics.rate_limit_errors.add
            )

    async def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """Takes `cost` from a limit a minute, in Redis unless it is unavailable. A refused request takes nothing."""
        from limits import RateLimitItemPerMinute

        item = RateLimitItemPerMinute(limit)
        if self.shared is not None and not self.breaker.is_open:
            try:
                async with timeout(self.budget_seconds):
                    usage = await hit(self.shared, item, name, cost)
                self.breaker.record_success()
                return usage
            except self.redis_errors as error:
                self.breaker.record_failure(error)
                self.metrics.rate_limit_errors.add()
        return await hit(self.local, item, name, cost)

    async def close(self) -> None:
        if self.shared is not None:
            await self.breaker.close()
            await self.redis.aclose()


async def hit(windows: "SlidingWindowCounterRateLimiter", item: "RateLimitItem", name: str, cost: int) -> Usage:
    granted = await windows.hit(item, name, cost=cost)
    stats = await windows.get_window_stats(item, name)
    return Usage(granted, stats.remaining, min(WINDOW_SECONDS, max(0.0, stats.reset_time - time.time())))


class Limiter:
    """The limits of each kind of principal. `budget_seconds` bounds a call of Redis."""

    def __init__(self, settings: Settings, metrics: Metrics, *, budget_seconds: float = REDIS_BUDGET_SECONDS) -> None:
        limits = {"jwt": settings.rate_limit_max, "api_key": settings.rate_limit_internal_max}
        self.limits = {kind: limit for kind, limit in limits.items() if limit}
        self.metrics = metrics
        self.budget_seconds = budget_seconds
        self.windows = Deferred(lambda: Windows(settings, metrics, budget_seconds=self.budget_seconds))

    def find_allowance(self, principal: Principal) -> "Allowance | None":
        """The allowance of one request; None for a principal without a limit."""
        limit = self.limits.get(principal.kind)
        return Allowance(self, principal, limit) if limit is not None else None

    async def close(self) -> None:
        if (windows := await self.windows.get_if_started()) is not None:
            await windows.close()


class Allowance:
    """What one request is charged to, and what remains after it."""

    __slots__ = ("kind", "limit", "limiter", "name", "usage")

    def __init__(self, limiter: Limiter, principal: Principal, limit: int) -> None:
        self.limiter = limiter
        self.name, self.kind = principal.name, principal.kind
        self.limit = limit
        self.usage = Usage(granted=False, remaining=limit, reset_seconds=0.0)

    async def charge(self, cost: int = 1) -> None:
        """Takes `cost` of the limit; more than the whole limit counts as the whole limit. Raises RateLimited."""
        windows = self.limiter.windows.value or await self.limiter.windows.get()
        self.usage = await windows.take(self.name, cost=min(cost, self.limit), limit=self.limit)
        if not self.usage.granted:
            self.limiter.metrics.rate_limited.add(self.kind)
            raise RateLimited(
                f"This principal may make {self.limit} requests in {WINDOW_SECONDS} seconds.",
                retry_after_seconds=max(1, ceil(self.usage.reset_seconds)),
            )

    async def charge_items(self, count: int) -> None:
        """Takes what a batch costs beyond its own request: one for each hundred items begun. Raises RateLimited."""
        cost = ceil(count / ITEMS_PER_COST) - 1
        if cost > 0:
            await self.charge(cost)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit and RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""
        return (
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (self.limit, WINDOW_SECONDS)),
            (b"ratelimit", b'"default";r=%d;t=%d' % (self.usage.remaining, ceil(self.usage.reset_seconds))),
        )
