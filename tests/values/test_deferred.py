"""Deferred: one build on a worker thread, shared by all callers."""

import asyncio
import threading

import pytest

from user_service.values.deferred import Deferred


class Builds:
    """Counts its calls and waits for `release` in each."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.threads: list[threading.Thread] = []
        self.release = threading.Event()

    def __call__(self) -> object:
        self.threads.append(threading.current_thread())
        assert self.release.wait(timeout=10)
        if len(self.threads) <= self.failures:
            raise ImportError("the module is missing")
        return object()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_nothing_is_built_before_it_is_needed() -> None:
    builds = Builds()
    deferred = Deferred(builds)
    assert await deferred.get_if_started() is None
    assert deferred.value is None
    assert not builds.threads


async def test_concurrent_callers_share_one_build_on_another_thread() -> None:
    builds = Builds()
    deferred = Deferred(builds)
    waiting = [asyncio.create_task(deferred.get()) for _ in range(5)]
    await asyncio.sleep(0.01)
    builds.release.set()
    values = await asyncio.gather(*waiting)
    assert all(value is deferred.value for value in values)
    assert await deferred.get() is deferred.value
    assert len(builds.threads) == 1
    assert builds.threads[0] is not threading.main_thread()


async def test_a_cancelled_caller_does_not_end_the_build() -> None:
    builds = Builds()
    deferred = Deferred(builds)
    first, second = asyncio.create_task(deferred.get()), asyncio.create_task(deferred.get())
    await asyncio.sleep(0.01)
    first.cancel()
    builds.release.set()
    assert await second is deferred.value
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(builds.threads) == 1


async def test_a_failure_reaches_every_waiting_caller_and_the_next_call_builds_again() -> None:
    builds = Builds(failures=1)
    deferred = Deferred(builds)
    waiting = [asyncio.create_task(deferred.get()) for _ in range(3)]
    await asyncio.sleep(0.01)
    builds.release.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ImportError] * 3
    assert await deferred.get() is deferred.value
    assert len(builds.threads) == 2


async def test_closing_waits_for_a_build_under_way() -> None:
    builds = Builds()
    deferred = Deferred(builds)
    deferred.start()
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_later(0.05, builds.release.set)
    value = await deferred.get_if_started()
    assert value is not None
    assert value is deferred.value


async def test_closing_after_a_failed_build_finds_no_value() -> None:
    builds = Builds(failures=1)
    deferred = Deferred(builds)
    task = deferred.start()
    builds.release.set()
    assert await deferred.get_if_started() is None
    assert isinstance(task.exception(), ImportError)
