"""How much a principal may ask for in a minute.

A limit is counted in a window that all replicas share (rate_windows.py). Asking it costs a round trip, so that a
replica takes from a large limit in lots of a thousandth and spends a lot without asking; a limit below 2,000 is taken
one by one and exact. Where there is no limit, there is no work.
"""

import asyncio
from math import ceil
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from user_service.errors import RateLimited
from user_service.observability.metrics import Metrics
from user_service.security.authentication import Principal
from user_service.settings import Settings

if TYPE_CHECKING:
    from user_service.security.rate_windows import RateWindows

WINDOW_SECONDS: Final = 60
LOTS: Final = 1000
LOT_SECONDS: Final = 10.0
ITEMS_FOR_ONE: Final = 100
MAX_KNOWN: Final = 10_000
# Where nobody waits for the windows, the API comes in first: two imports at once keep each other waiting.
CREDIT_SECONDS: Final = 2.0


class Limiter:
    """The allowances of the principals that this replica has met."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        limits = {"jwt": settings.rate_limit_max, "api_key": settings.rate_limit_internal_max}
        self.limits = {kind: limit for kind, limit in limits.items() if limit}
        self.settings = settings
        self.metrics = metrics
        self.known: dict[str, Allowance] = {}
        self.windows: RateWindows | None = None
        self.loading: asyncio.Task[RateWindows] | None = None
        self.loading_later: asyncio.TimerHandle | None = None

    def allowance_of(self, principal: Principal) -> "Allowance | None":
        """What a principal has left; None for one without a limit."""
        limit = self.limits.get(principal.kind)
        if limit is None:
            return None
        allowance = self.known.get(principal.name)
        if allowance is None:
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            allowance = self.known[principal.name] = Allowance(self, principal, limit)
        return allowance

    def load(self) -> "asyncio.Task[RateWindows]":
        """The windows, whose libraries are imported for the first limited request."""
        if self.loading is None:
            self.loading = asyncio.create_task(self.build())
        return self.loading

    def load_later(self) -> None:
        if self.loading is None and self.loading_later is None:
            self.loading_later = asyncio.get_running_loop().call_later(CREDIT_SECONDS, self.load)

    async def ready(self) -> "RateWindows":
        return self.windows if self.windows is not None else await asyncio.shield(self.load())

    async def build(self) -> "RateWindows":
        self.windows = await asyncio.to_thread(build_windows, self.settings, self.metrics)
        return self.windows

    async def close(self) -> None:
        if self.loading_later is not None:
            self.loading_later.cancel()
        if self.loading is not None:
            await self.loading
        if self.windows is not None:
            await self.windows.close()


class Allowance:
    """What one principal has left of its limit, as far as this replica knows."""

    __slots__ = ("debt", "kind", "left", "limit", "limiter", "lot", "name", "policy", "reset_at", "rest", "until")

    def __init__(self, limiter: Limiter, principal: Principal, limit: int) -> None:
        self.limiter = limiter
        self.name, self.kind = principal.name, principal.kind
        self.limit = limit
        self.lot = max(1, limit // LOTS)
        self.policy = b'"default";q=%d;w=%d' % (limit, WINDOW_SECONDS)
        self.left, self.until = 0, 0.0
        self.rest, self.reset_at = limit, 0.0
        self.debt = 0

    def spend(self, cost: int) -> bool:
        """Takes `cost` from what is at hand; False when that is not enough."""
        if self.left < cost or monotonic() >= self.until:
            return False
        self.left -= cost
        return True

    async def charge(self, cost: int = 1) -> None:
        """Takes `cost`, from the shared window if need be; more than the whole limit counts as the whole limit.

        Raises RateLimited.
        """
        cost = min(cost, self.limit)
        if self.spend(cost) or self.borrow(cost):
            return
        windows = await self.limiter.ready()
        debt, self.debt = self.debt, 0
        drawn = min(max(cost, self.lot) + debt, self.limit)
        granted, window = await windows.take(self.limit, self.name, drawn, at_least=cost)
        self.rest, self.reset_at = window.remaining, window.reset_time
        if not granted:
            self.limiter.metrics.rate_limited.add(self.kind)
            raise RateLimited(
                f"This principal may make {self.limit} requests in {WINDOW_SECONDS} seconds.",
                retry_after_seconds=max(1, self.seconds_to_reset),
            )
        if monotonic() >= self.until:
            self.left = 0
        self.left += max(0, granted - cost - debt)
        self.until = monotonic() + LOT_SECONDS

    def borrow(self, cost: int) -> bool:
        """Whether the first lot can be had on credit, while the libraries of the windows are not there yet."""
        if self.limiter.windows is not None or self.debt or cost > self.lot or self.lot == 1:
            return False
        self.limiter.load_later()
        self.debt = self.lot
        self.left, self.until = self.lot - cost, monotonic() + LOT_SECONDS
        return True

    async def charge_items(self, count: int) -> None:
        """Takes what a batch costs beyond its own request: one for each hundred items begun. Raises RateLimited."""
        cost = ceil(count / ITEMS_FOR_ONE) - 1
        if cost > 0:
            await self.charge(cost)

    @property
    def seconds_to_reset(self) -> int:
        return max(0, min(WINDOW_SECONDS, ceil(self.reset_at - time())))

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit and RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""
        state = b'"default";r=%d;t=%d' % (max(0, self.rest + self.left), self.seconds_to_reset)
        return (b"ratelimit-policy", self.policy), (b"ratelimit", state)


def build_windows(settings: Settings, metrics: Metrics) -> "RateWindows":
    from user_service.security.rate_windows import RateWindows

    return RateWindows(settings, metrics)
