"""How many requests a principal may make in a minute (docs/limits.md).

A sliding window of two counters: what was granted in the current window, and the share of the window before it that the
last 60 seconds still cover. With Redis, all replicas share the windows; hits that wait at the same time travel in one
round trip. While Redis is unavailable or slower than 50 ms, each replica counts for itself. A principal without a limit
costs nothing.
"""

from asyncio import timeout
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, floor
from time import monotonic
from typing import Final

from user_service.cache.dataloader import DataLoader
from user_service.errors import RateLimited
from user_service.observability.metrics import Metrics
from user_service.resilience.circuit_breaker import CircuitBreaker
from user_service.resilience.tls_files import find_unreadable_file
from user_service.security.principals import Principal
from user_service.settings import Settings
from user_service.values.deferred import Deferred

WINDOW_SECONDS: Final = 60
ITEMS_PER_COST: Final = 100
REDIS_BUDGET_SECONDS: Final = 0.05
SWEEP_SECONDS: Final = 10.0
# `LocalWindows.take` in Redis, for one window in KEYS after the other. ARGV has the milliseconds of a window, then the
# limit and the cost of each. Returns for each: 1 if granted, the grants of this window and of the one before, and the
# milliseconds since this window's start.
TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local length = tonumber(ARGV[1])
local usages = {}
for i, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local window = redis.call('HMGET', key, 'start', 'current', 'previous')
  local start, current, previous = tonumber(window[1]) or now, tonumber(window[2]) or 0, tonumber(window[3]) or 0
  if now < start or now >= start + 2 * length then
    start, current, previous = now, 0, 0
  elseif now >= start + length then
    start, current, previous = start + length, 0, current
  end
  local granted = current + math.floor(previous * (length - (now - start)) / length) + cost <= limit
  if granted then
    current = current + cost
    redis.call('HSET', key, 'start', start, 'current', current, 'previous', previous)
    redis.call('PEXPIRE', key, 2 * length)
  end
  usages[i] = {granted and 1 or 0, current, previous, now - start}
end
return usages
"""


class Usage:
    """Whether a request was granted, and its window then: the grants of this window and of the one before, its age."""

    __slots__ = ("current", "elapsed_seconds", "granted", "previous")

    def __init__(self, granted: bool, current: int, previous: int, elapsed_seconds: float) -> None:
        self.granted = granted
        self.current, self.previous, self.elapsed_seconds = current, previous, elapsed_seconds

    def count_remaining(self, limit: int) -> int:
        """How many more requests would be granted now."""
        return max(0, limit - self.current - count_faded(self.previous, self.elapsed_seconds))

    @property
    def reset_seconds(self) -> float:
        """The seconds until more would be granted."""
        rest = WINDOW_SECONDS - self.elapsed_seconds
        return rest % (WINDOW_SECONDS / self.previous) if self.previous else rest

    def count_seconds_until(self, cost: int, limit: int) -> float:
        """The seconds until `cost` would be granted, if nothing else is granted meanwhile."""
        rest = WINDOW_SECONDS - self.elapsed_seconds
        free = limit - self.current - cost
        if free >= 0:
            return max(0.0, rest - fade_seconds(self.previous, free))
        # This window is then the one before.
        return rest + max(0.0, WINDOW_SECONDS - fade_seconds(self.current, limit - cost))


def count_faded(previous: int, elapsed_seconds: float) -> int:
    """How many grants of the window before the last 60 seconds still cover."""
    return floor(previous * (WINDOW_SECONDS - elapsed_seconds) / WINDOW_SECONDS) if previous else 0


def fade_seconds(previous: int, left: int) -> float:
    """The rest of a window during which at most `left` grants of the window before are still covered."""
    return WINDOW_SECONDS * (left + 1) / previous if previous > left else WINDOW_SECONDS


class Hit:
    """One request's cost, to be taken from the window of `name`. Two hits are never equal."""

    __slots__ = ("cost", "limit", "name")

    def __init__(self, name: str, *, cost: int, limit: int) -> None:
        self.name, self.cost, self.limit = name, cost, limit


class Window:
    """One name's window in this process: its start on the monotonic clock, its grants, and those of the one before."""

    __slots__ = ("current", "previous", "start")

    def __init__(self, start: float, current: int = 0, previous: int = 0) -> None:
        self.start, self.current, self.previous = start, current, previous

    def advance(self, now: float) -> float:
        """Starts the window that `now` lies in, and returns the seconds since its start."""
        elapsed = now - self.start
        if elapsed >= 2 * WINDOW_SECONDS:
            self.start, self.current, self.previous = now, 0, 0
        elif elapsed >= WINDOW_SECONDS:
            self.start, self.current, self.previous = self.start + WINDOW_SECONDS, 0, self.current
        return now - self.start


class LocalWindows:
    """The windows of this process."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.sweep_at = 0.0

    def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """Grants `cost` unless more than `limit` would then be granted in a minute. A refused request takes nothing."""
        now = monotonic()
        if now >= self.sweep_at:
            self.remove_ended(now)
        window = self.windows.get(name)
        if window is None:
            window = self.windows[name] = Window(now)
        elapsed = window.advance(now)
        granted = window.current + count_faded(window.previous, elapsed) + cost <= limit
        if granted:
            window.current += cost
        return Usage(granted, window.current, window.previous, elapsed)

    def remove_ended(self, now: float) -> None:
        self.sweep_at = now + SWEEP_SECONDS
        oldest = now - 2 * WINDOW_SECONDS
        self.windows = {name: window for name, window in self.windows.items() if window.start > oldest}


class RedisWindows:
    """The windows of all replicas; `local` counts while Redis fails. Imports the Redis client when it is made."""

    def __init__(self, url: str, *, prefix: str, local: LocalWindows, metrics: Metrics, budget_seconds: float) -> None:
        from redis.exceptions import RedisError

        from user_service.cache.redis import connect

        # What a call of Redis raises; TimeoutError is an OSError.
        self.errors: tuple[type[Exception], ...] = (RedisError, OSError)
        self.redis = connect(url)
        self.script = self.redis.register_script(TAKE)
        self.prefix = f"{prefix}rate:"
        self.local = local
        self.count_failure = metrics.rate_limit_errors.add
        self.budget_seconds = budget_seconds
        self.breaker = CircuitBreaker(
            "rate limits",
            probe=self.redis.ping,
            count_failure=self.count_failure,
            explain=lambda: find_unreadable_file(url, "REDIS_URL"),
        )
        self.hits: DataLoader[Hit, Usage] = DataLoader(self.take_all)

    async def take(self, name: str, *, cost: int, limit: int) -> Usage:
        """As `LocalWindows.take`, over all replicas while Redis answers in time."""
        usage: Usage | None = None
        if not self.breaker.is_open:
            # The hits under way, which this one may wait for, are a part of its budget.
            with suppress(TimeoutError):
                async with timeout(self.budget_seconds):
                    usage = await self.hits.load(Hit(name, cost=cost, limit=limit))
        return usage or self.local.take(name, cost=cost, limit=limit)

    async def take_all(self, hits: Sequence[Hit]) -> Mapping[Hit, Usage]:
        """The usage of each hit in one round trip; none where Redis fails."""
        if self.breaker.is_open:
            return {}
        keys = [self.prefix + hit.name for hit in hits]
        arguments = [number for hit in hits for number in (hit.limit, hit.cost)]
        try:
            async with timeout(self.budget_seconds):
                counts = await self.script(keys, [WINDOW_SECONDS * 1000, *arguments])
        except self.errors as error:
            self.breaker.record_failure(error)
            self.count_failure()
            return {}
        self.breaker.record_success()
        return {
            hit: Usage(bool(granted), current, previous, milliseconds / 1000)
            for hit, (granted, current, previous, milliseconds) in zip(hits, counts, strict=True)
        }

    async def close(self) -> None:
        await self.breaker.close()
        await self.redis.aclose()


class Limiter:
    """The limits of each kind of principal. `budget_seconds` bounds a call of Redis."""

    def __init__(self, settings: Settings, metrics: Metrics, *, budget_seconds: float = REDIS_BUDGET_SECONDS) -> None:
        limits = {"jwt": settings.rate_limit_max, "api_key": settings.rate_limit_internal_max}
        self.limits = {kind: limit for kind, limit in limits.items() if limit}
        # The header RateLimit-Policy of each limit.
        self.policies = {limit: b'"default";q=%d;w=%d' % (limit, WINDOW_SECONDS) for limit in self.limits.values()}
        self.metrics = metrics
        self.local = LocalWindows()
        self.shared: Deferred[RedisWindows] | None = None
        if (url := settings.redis_url) is not None:
            self.shared = Deferred(
                lambda: RedisWindows(
                    url,
                    prefix=settings.redis_key_prefix,
                    local=self.local,
                    metrics=metrics,
                    budget_seconds=budget_seconds,
                )
            )

    def find_allowance(self, principal: Principal) -> "Allowance | None":
        """The allowance of one request; None for a principal without a limit."""
        limit = self.limits.get(principal.kind)
        return Allowance(self, principal, limit) if limit is not None else None

    async def close(self) -> None:
        if self.shared is not None and (windows := await self.shared.get_if_started()) is not None:
            await windows.close()


class Allowance:
    """What one request is charged to, and what remains after it."""

    __slots__ = ("limit", "limiter", "principal", "usage")

    def __init__(self, limiter: Limiter, principal: Principal, limit: int) -> None:
        self.limiter, self.principal, self.limit = limiter, principal, limit
        # The window after the last charge; None before the first.
        self.usage: Usage | None = None

    async def charge(self, cost: int = 1) -> None:
        """Takes `cost` of the limit; more than the whole limit counts as the whole limit. Raises RateLimited."""
        shared = self.limiter.shared
        if shared is None:
            self.charge_locally(cost)
        else:
            windows, cost = shared.value or await shared.get(), min(cost, self.limit)
            self.apply(await windows.take(self.principal.name, cost=cost, limit=self.limit), cost)

    def charge_locally(self, cost: int = 1) -> None:
        """Takes `cost` from the window of this process, without `await`. Raises RateLimited."""
        cost = min(cost, self.limit)
        self.apply(self.limiter.local.take(self.principal.name, cost=cost, limit=self.limit), cost)

    def apply(self, usage: Usage, cost: int) -> None:
        self.usage = usage
        if not usage.granted:
            self.limiter.metrics.rate_limited.add(self.principal.kind)
            raise RateLimited(
                f"This principal may make {self.limit} requests in {WINDOW_SECONDS} seconds.",
                retry_after_seconds=max(1, ceil(usage.count_seconds_until(cost, self.limit))),
            )

    @property
    def remaining(self) -> int:
        """How many more requests would be granted."""
        return self.limit if self.usage is None else self.usage.count_remaining(self.limit)

    async def charge_items(self, count: int) -> None:
        """Takes what a batch costs beyond its own request: one for each hundred items begun. Raises RateLimited."""
        cost = ceil(count / ITEMS_PER_COST) - 1
        if cost > 0:
            await self.charge(cost)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit and RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""
        reset_seconds = 0.0 if self.usage is None else self.usage.reset_seconds
        state = b'"default";r=%d;t=%d' % (self.remaining, ceil(reset_seconds))
        return (b"ratelimit-policy", self.limiter.policies[self.limit]), (b"ratelimit", state)
