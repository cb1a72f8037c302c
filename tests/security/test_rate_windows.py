"""The windows of rate limits: one rule, in this process and in Redis."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from support.waiting import PATIENCE_SECONDS
from user_service.observability.metrics import Metrics
from user_service.security.rate_limits import LocalWindows, RedisWindows, Usage, Window


class Windows:
    """One kind of windows, with windows that began at a time of the test's choice."""

    def __init__(self, redis_url: str | None) -> None:
        self.local = LocalWindows()
        self.shared = open_redis(redis_url) if redis_url is not None else None

    async def begin(self, name: str, *, age_seconds: float, current: int, previous: int) -> None:
        if self.shared is None:
            self.local.windows[name] = Window(time.monotonic() - age_seconds, current, previous)
            return
        start = round((time.time() - age_seconds) * 1000)
        window: dict[Any, Any] = {"start": start, "current": current, "previous": previous}
        await self.shared.redis.hset(self.shared.prefix + name, mapping=window)

    async def take(self, name: str, *, cost: int, limit: int) -> Usage:
        return await (self.shared.take if self.shared else self.take_local)(name, cost=cost, limit=limit)

    async def take_local(self, name: str, *, cost: int, limit: int) -> Usage:
        return self.local.take(name, cost=cost, limit=limit)


def open_redis(redis_url: str) -> RedisWindows:
    """Windows of a prefix of their own."""
    return RedisWindows(
        redis_url,
        prefix=f"{uuid4()}:",
        local=LocalWindows(),
        metrics=Metrics(),
        budget_seconds=PATIENCE_SECONDS,
    )


@pytest.fixture(params=["local", "redis"])
async def windows(request: pytest.FixtureRequest) -> AsyncIterator[Windows]:
    """The windows of a process of its own, and those in Redis."""
    windows = Windows(request.getfixturevalue("redis_url") if request.param == "redis" else None)
    yield windows
    if windows.shared is not None:
        await windows.shared.close()


@pytest.mark.parametrize(
    ("age_seconds", "current", "previous", "cost", "expected"),
    [
        (0, 0, 0, 1, (True, 9)),
        (0, 0, 0, 10, (True, 0)),
        (0, 0, 0, 11, (False, 10)),
        (20, 7, 0, 3, (True, 0)),
        (20, 7, 0, 4, (False, 3)),
        # Of ten in the window before, the last minute covers 45 %, which counts as four.
        (33, 2, 10, 4, (True, 0)),
        (33, 2, 10, 5, (False, 4)),
        # The window has ended and has become the one before.
        (93, 10, 10, 6, (True, 0)),
        (93, 10, 10, 7, (False, 6)),
        (125, 10, 10, 10, (True, 0)),
    ],
)
async def test_a_window_grants_its_limit(
    windows: Windows, age_seconds: float, current: int, previous: int, cost: int, expected: tuple[bool, int]
) -> None:
    await windows.begin("one", age_seconds=age_seconds, current=current, previous=previous)

    usage = await windows.take("one", cost=cost, limit=10)

    assert (usage.granted, usage.count_remaining(10)) == expected


@pytest.mark.parametrize(
    ("age_seconds", "current", "previous", "seconds"),
    # Six in the window before: one more is granted every ten seconds.
    [(0, 0, 0, 60), (20, 7, 0, 40), (33, 0, 6, 7), (93, 6, 0, 7)],
)
async def test_a_window_says_when_it_grants_more(
    windows: Windows, age_seconds: float, current: int, previous: int, seconds: float
) -> None:
    await windows.begin("one", age_seconds=age_seconds, current=current, previous=previous)

    usage = await windows.take("one", cost=1, limit=10)

    assert seconds - 3 < usage.reset_seconds <= seconds + 0.1


async def test_a_window_says_what_remains(windows: Windows) -> None:
    usages = [await windows.take("one", cost=cost, limit=10) for cost in (1, 8, 1, 1)]

    assert [(usage.granted, usage.count_remaining(10)) for usage in usages] == [
        (True, 9),
        (True, 1),
        (True, 0),
        (False, 0),
    ]
    assert all(0 <= usage.reset_seconds <= 60 for usage in usages)


async def test_a_refused_request_takes_nothing(windows: Windows) -> None:
    usages = [await windows.take("one", cost=cost, limit=10) for cost in (8, 3, 3, 2, 1)]

    assert [usage.granted for usage in usages] == [True, False, False, True, False]


async def test_hits_that_wait_together_are_granted_one_by_one(windows: Windows) -> None:
    names = ["one"] * 15 + ["other"] * 15

    usages = await asyncio.gather(*(windows.take(name, cost=1, limit=10) for name in names))

    granted = [name for name, usage in zip(names, usages, strict=True) if usage.granted]
    assert granted == ["one"] * 10 + ["other"] * 10


async def test_redis_forgets_a_window_that_has_ended(redis_url: str) -> None:
    windows = open_redis(redis_url)

    await windows.take("one", cost=1, limit=10)
    seconds = await windows.redis.ttl(windows.prefix + "one")
    await windows.close()

    assert 60 < seconds <= 120


def test_a_process_forgets_windows_that_have_ended() -> None:
    windows = LocalWindows()
    for number in range(2000):
        windows.windows[f"subject-{number}"] = Window(time.monotonic() - 121, 1, 1)

    windows.take("last", cost=1, limit=10)

    assert list(windows.windows) == ["last"]


@pytest.mark.parametrize(
    ("current", "previous", "elapsed", "cost", "seconds"),
    [
        # Two hits are left; ten are when ninety of the hundred before are out of the last minute.
        (0, 100, 1.0, 10, 59 - 60 * 91 / 100),
        (0, 100, 1.0, 1, 0),
        (10, 90, 30.0, 95, 30 + 60 - 60 * 6 / 10),
        # After this window's end its own hits fade: half of a hundred in half a minute.
        (100, 0, 20.0, 50, 40 + 60 - 60 * 51 / 100),
        (100, 0, 20.0, 100, 40 + 60 - 60 / 100),
    ],
)
async def test_a_window_says_when_it_grants_a_cost(
    current: int, previous: int, elapsed: float, cost: int, seconds: float
) -> None:
    usage = Usage(False, current, previous, elapsed)

    assert usage.count_seconds_until(cost, 100) == pytest.approx(max(0, seconds))


async def test_what_a_window_says_is_when_it_grants() -> None:
    """Each wait ends within the limit, and a hundredth of a second before it does not."""
    for current, previous, elapsed, cost in itertools.product(
        (0, 3, 99, 100), (0, 50, 100), (0.0, 17.0, 59.0), (1, 40, 100)
    ):
        usage = Usage(False, current, previous, elapsed)
        wait = usage.count_seconds_until(cost, 100)
        if wait:
            assert granted_after(usage, wait + 0.001, cost)
            assert not granted_after(usage, wait - 0.01, cost)


def granted_after(usage: Usage, seconds: float, cost: int) -> bool:
    """Whether a window grants a cost of a limit of a hundred after so many seconds."""
    windows = LocalWindows()
    windows.windows["one"] = window = Window(time.monotonic() - usage.elapsed_seconds - seconds)
    window.current, window.previous = usage.current, usage.previous
    return windows.take("one", cost=cost, limit=100).granted
