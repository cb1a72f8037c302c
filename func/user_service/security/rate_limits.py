"""How much a principal may ask for in a minute (docs/limits.md).

A sliding window of two counters: what was granted in the current window, and the share of the window before it that the
last 60 seconds still cover. A grant costs one round trip to Redis, where all replicas share the windows. While Redis is
away or slower than 50 ms, each replica counts for itself. Where there is no limit, there is no work.
"""

from asyncio import timeout
from collections.abc import Callable
from functools import partial
from math import ceil, floor
from time import monotonic
from typing import Final, NamedTuple

from user_service.cache.circuit_breaker import CircuitBreaker
from user_service.errors import RateLimited
from user_service.observability.metrics import Metrics
from user_service.security.authentication import Principal
from user_service.settings import Settings
from user_service.values.deferred import Deferred

WINDOW_SECONDS: Final = 60
ITEMS_PER_COST: Final = 100
REDIS_BUDGET_SECONDS: Final = 0.05
SWEEP_SECONDS: Final = 10.0
# `LocalWindows.take` in Redis: KEYS[1] is the window, ARGV its milliseconds, the limit and the cost. Returns
# {1 for granted, the grants of this window, of the one before, milliseconds since this window's start}.
TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local length, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window = redis.call('HMGET', KEYS[1], 'start', 'current', 'previous')
local start, current, previous = tonumber(window[1]) or now, tonumber(window[2]) or 0, tonumber(window[3]) or 0
if now < start or now >= start + 2 * length then
  start, current, previous = now, 0, 0
elseif now >= start + length then
  start, current, previous = start + length, 0, current
end
local granted = current + math.floor(previous * (length - (now - start)) / length) + cost <= limit
if granted then
  current = current + cost
  redis.call('HSET', KEYS[1], 'start', start, 'current', current, 'previous', previous)
  redis.call('PEXPIRE', KEYS[1], 2 * length)
end
return {granted and 1 or 0, current, previous, now - start}
"""


class Usage(NamedTuple):
    """Whether a request was granted, how many more would be, and the seconds until that number grows."""

    granted: bool
    remaining: int
    reset_seconds: float


def measure_usage(limit: int, *, granted: bool, current: int, previous: int, elapsed: float) -> Usage:
    """The usage of a window that started `elapsed` seconds ago, with its grants and those of the window before."""
    rest = WINDOW_SECONDS - elapsed
    used = current + floor(previous * rest / WINDOW_SECONDS)
    return Usage(granted, max(0, limit - used), rest % (WINDOW_SECONDS / previous) if previous else rest)


class Window(NamedTuple):
    """One name's window in this process: its start on the monotonic clock, its grants, and those of the one before."""

    start: float
    current: int
    previous: int


class LocalWindows:
    """The windows of this process."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.sweep_at = 0.0

    def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """Grants `cost` unless more than `limit` would then be granted in a minute."""
        now = monotonic()
        if now >= self.sweep_at:
            self.remove_ended(now)
        start, current, previous = self.windows.get(name) or Window(now, 0, 0)
        if now >= start + 2 * WINDOW_SECONDS:
            start, current, previous = now, 0, 0
        elif now >= start + WINDOW_SECONDS:
            start, current, previous = start + WINDOW_SECONDS, 0, current
        elapsed = now - start
        granted = current + floor(previous * (WINDOW_SECONDS - elapsed) / WINDOW_SECONDS) + cost <= limit
        if granted:
            current += cost
            self.windows[name] = Window(start, current, previous)
        return measure_usage(limit, granted=granted, current=current, previous=previous, elapsed=elapsed)

    def remove_ended(self, now: float) -> None:
        self.sweep_at = now + SWEEP_SECONDS
        oldest = now - 2 * WINDOW_SECONDS
        self.windows = {name: window for name, window in self.windows.items() if window.start > oldest}


class RedisWindows:
    """The windows of all replicas, and the circuit breaker before them. Imports the Redis client when it is made."""

    def __init__(self, url: str, *, prefix: str, count_failure: Callable[[], None]) -> None:
        from redis.exceptions import RedisError

        from user_service.cache.redis import connect

        # What `take` raises; TimeoutError is an OSError.
        self.errors: tuple[type[Exception], ...] = (RedisError, OSError)
        self.redis = connect(url)
        self.breaker = CircuitBreaker("rate limits", probe=self.redis.ping, count_failure=count_failure)
        self.script = self.redis.register_script(TAKE)
        self.prefix = f"{prefix}rate:"

    async def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """As `LocalWindows.take`."""
        keys, arguments = [self.prefix + name], [WINDOW_SECONDS * 1000, limit, cost]
        granted, current, previous, elapsed = await self.script(keys, arguments)
        return measure_usage(limit, granted=bool(granted), current=current, previous=previous, elapsed=elapsed / 1000)

    async def close(self) -> None:
        await self.breaker.close()
        await self.redis.aclose()


class Limiter:
    """The limits of each kind of principal, over the windows of Redis where the settings name one."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        limits = {"jwt": settings.rate_limit_max, "api_key": settings.rate_limit_internal_max}
        self.limits = {kind: limit for kind, limit in limits.items() if limit}
        self.metrics = metrics
        self.budget_seconds = REDIS_BUDGET_SECONDS
        self.local = LocalWindows()
        self.shared: Deferred[RedisWindows] | None = None
        if settings.redis_url is not None:
            self.shared = Deferred(
                partial(
                    RedisWindows,
                    settings.redis_url,
                    prefix=settings.redis_key_prefix,
                    count_failure=metrics.rate_limit_errors.add,
                )
            )

    def find_allowance(self, principal: Principal) -> "Allowance | None":
        """What one request of a principal is charged to; None for a principal without a limit."""
        limit = self.limits.get(principal.kind)
        return Allowance(self, principal, limit) if limit is not None else None

    async def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """Takes `cost` from the windows of all replicas, or from those of this process while Redis is away."""
        if self.shared is not None and not (windows := await self.shared.get()).breaker.is_open:
            try:
                async with timeout(self.budget_seconds):
                    usage = await windows.take(name, cost=cost, limit=limit)
                windows.breaker.record_success()
                return usage
            except windows.errors as error:
                windows.breaker.record_failure(error)
                self.metrics.rate_limit_errors.add()
        return self.local.take(name, cost=cost, limit=limit)

    async def close(self) -> None:
        if self.shared is not None and (windows := await self.shared.get_if_started()) is not None:
            await windows.close()


class Allowance:
    """What one request is charged to, and what is left then."""

    __slots__ = ("kind", "limit", "limiter", "name", "usage")

    def __init__(self, limiter: Limiter, principal: Principal, limit: int) -> None:
        self.limiter = limiter
        self.name, self.kind = principal.name, principal.kind
        self.limit = limit
        self.usage = Usage(granted=False, remaining=limit, reset_seconds=0.0)

    async def charge(self, cost: int = 1) -> None:
        """Takes `cost` of the limit; more than the whole limit counts as the whole limit. Raises RateLimited."""
        self.usage = await self.limiter.take(self.name, cost=min(cost, self.limit), limit=self.limit)
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
