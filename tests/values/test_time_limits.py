"""Time limits that share a timer behave as `asyncio.timeout`."""

import asyncio
from time import monotonic

import pytest

from user_service.values.time_limits import TimeLimit, find_queue

SECONDS = 0.05


async def wait_forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_wait_ends_after_its_time() -> None:
    begin = monotonic()

    with pytest.raises(TimeoutError), TimeLimit(SECONDS) as limit:
        await wait_forever()

    assert limit.has_expired
    assert monotonic() - begin >= SECONDS - 0.002
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_ends_in_time_is_not_disturbed() -> None:
    with TimeLimit(SECONDS) as limit:
        await asyncio.sleep(0)
    await asyncio.sleep(SECONDS * 2)

    assert not limit.has_expired
    assert find_queue(SECONDS).limits == {}


async def test_each_of_many_waits_has_its_own_time() -> None:
    ended: list[int] = []

    async def wait(number: int) -> None:
        await asyncio.sleep(number * 0.01)
        with pytest.raises(TimeoutError), TimeLimit(SECONDS):
            await wait_forever()
        ended.append(number)

    begin = monotonic()
    await asyncio.gather(*(wait(number) for number in range(5)))

    assert ended == [0, 1, 2, 3, 4]
    assert monotonic() - begin >= SECONDS + 0.04 - 0.002


async def test_a_wait_goes_on_while_an_earlier_one_has_ended() -> None:
    with TimeLimit(SECONDS):
        await asyncio.sleep(SECONDS / 2)
    with pytest.raises(TimeoutError), TimeLimit(SECONDS):
        await wait_forever()


async def test_of_nested_waits_the_one_that_expired_raises() -> None:
    with TimeLimit(SECONDS * 100) as outer:
        with pytest.raises(TimeoutError), TimeLimit(SECONDS):
            await wait_forever()
        await asyncio.sleep(0)

    assert not outer.has_expired


async def test_a_lifted_limit_does_not_expire() -> None:
    with TimeLimit(SECONDS) as limit:
        limit.lift()
        await asyncio.sleep(SECONDS * 2)

    assert not limit.has_expired


async def test_an_error_is_passed_on() -> None:
    with pytest.raises(ValueError, match="its own"), TimeLimit(SECONDS):
        raise ValueError("its own")


async def test_a_cancellation_by_others_is_passed_on() -> None:
    async def wait() -> None:
        with TimeLimit(SECONDS * 100):
            await wait_forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_in_the_moment_of_the_expiry_is_passed_on() -> None:
    limits: list[TimeLimit] = []

    async def wait() -> None:
        with TimeLimit(SECONDS * 100) as limit:
            limits.append(limit)
            await wait_forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    limits[0].expire()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_new_loop_has_a_timer_of_its_own() -> None:
    async def begin() -> None:
        with TimeLimit(SECONDS):
            await asyncio.sleep(0)

    async def expire() -> None:
        with pytest.raises(TimeoutError), TimeLimit(SECONDS):
            await wait_forever()

    asyncio.run(begin())
    asyncio.run(expire())
