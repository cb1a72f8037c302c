import asyncio
from contextvars import ContextVar
from uuid import UUID, uuid4

import pytest

from support.waiting import eventually
from user_service.cache.dataloader import DataLoader


class Source:
    """What a loader fetches from: it records each fetch, and answers once it may."""

    def __init__(self) -> None:
        self.fetches: list[list[UUID]] = []
        self.values: dict[UUID, int | Exception] = {}
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()

    async def fetch(self, ids: list[UUID]) -> dict[UUID, int | Exception]:
        self.fetches.append(ids)
        snapshot = dict(self.values)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return snapshot


@pytest.fixture
def source() -> Source:
    return Source()


async def loads(loader: DataLoader[UUID, int], ids: list[UUID]) -> list[int | BaseException | None]:
    return await asyncio.gather(*(loader.load(user_id) for user_id in ids), return_exceptions=True)


async def test_many_concurrent_loads_are_one_fetch(source: Source) -> None:
    loader = DataLoader(source.fetch)
    ids = [uuid4() for _ in range(10)]
    source.values = {user_id: number for number, user_id in enumerate(ids)}
    source.may_answer.set()

    values = await loads(loader, ids * 20)

    assert values == [*range(10)] * 20
    assert source.fetches == [ids]


async def test_a_fetch_takes_so_many_and_so_many_run_at_once(source: Source) -> None:
    loader = DataLoader(source.fetch, width=2, batch=5)

    waiting = asyncio.gather(*(loader.load(uuid4()) for _ in range(17)))
    await asyncio.sleep(0.01)
    running = len(source.fetches)
    source.may_answer.set()
    values = await waiting

    assert running == 2
    assert [len(ids) for ids in source.fetches] == [5, 5, 5, 2]
    assert values == [None] * 17


async def test_an_error_of_one_key_is_its_own(source: Source) -> None:
    loader = DataLoader(source.fetch)
    good, bad, absent = uuid4(), uuid4(), uuid4()
    source.values = {good: 1, bad: LookupError("broken")}
    source.may_answer.set()

    values = await loads(loader, [good, bad, absent])

    assert values[0] == 1
    assert isinstance(values[1], LookupError)
    assert values[2] is None


async def test_an_error_of_the_fetch_reaches_every_caller_and_the_next_load_fetches_again(source: Source) -> None:
    loader = DataLoader(source.fetch)
    user_id = uuid4()
    source.values, source.error = {user_id: 1}, ConnectionError("away")
    source.may_answer.set()

    first = await loads(loader, [user_id, uuid4()])
    source.error = None
    second = await loads(loader, [user_id])

    assert [type(error) for error in first] == [ConnectionError, ConnectionError]
    assert second == [1]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_caller_does_not_affect_the_others(source: Source, cancelled: int) -> None:
    loader = DataLoader(source.fetch)
    user_id = uuid4()
    source.values = {user_id: 7}

    async def wait() -> int | None:
        return await loader.load(user_id)

    waiters = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiters[cancelled].cancel()
    await asyncio.sleep(0)
    source.may_answer.set()
    values = await asyncio.gather(*waiters, return_exceptions=True)

    assert isinstance(values.pop(cancelled), asyncio.CancelledError)
    assert values == [7, 7]


async def test_a_key_whose_loads_were_all_cancelled_before_its_fetch_is_not_fetched(source: Source) -> None:
    loader = DataLoader(source.fetch, width=1)
    first, cancelled, shared = (uuid4() for _ in range(3))

    running = loader.load(first)
    await asyncio.sleep(0.01)
    loader.load(cancelled).cancel()
    loader.load(shared).cancel()
    waiting = loader.load(shared)
    source.may_answer.set()
    await asyncio.gather(running, waiting)
    loader.load(cancelled).cancel()
    await asyncio.sleep(0.01)

    assert source.fetches == [[first], [shared]]


async def test_a_fetch_that_takes_long_does_not_hold_up_others(source: Source) -> None:
    loader = DataLoader(source.fetch, width=1, batch=1, patience=0.01)
    ids = [uuid4() for _ in range(3)]

    loads = [loader.load(user_id) for user_id in ids]

    async def are_all_fetched() -> bool:
        return len(source.fetches) == len(ids)

    await eventually(are_all_fetched)
    source.may_answer.set()

    assert await asyncio.gather(*loads) == [None] * 3
    await asyncio.sleep(0)
    assert (loader.waiting, loader.running, loader.slow) == ({}, set(), set())


@pytest.mark.parametrize("number", [1, 2])
async def test_a_fetch_that_takes_long_is_cancelled_with_the_last_of_its_loads(source: Source, number: int) -> None:
    loader = DataLoader(source.fetch, patience=0.01)

    loads = [loader.load(user_id) for user_id in [uuid4(), uuid4()]]

    async def is_slow() -> bool:
        return bool(loader.slow)

    await eventually(is_slow)
    (task,) = loader.slow
    for future in loads[:number]:
        future.cancel()
    await asyncio.sleep(0.01)

    assert task.cancelled() == (number == len(loads))
    source.may_answer.set()
    assert await asyncio.gather(*loads[number:]) == [None] * (len(loads) - number)
    await asyncio.sleep(0)
    assert loader.slow == set()


async def test_a_load_after_a_commit_sees_it_although_a_fetch_of_before_is_under_way(source: Source) -> None:
    loader = DataLoader(source.fetch)
    user_id = uuid4()
    source.values = {user_id: 1}

    before = loader.load(user_id)
    await asyncio.sleep(0.01)
    source.values = {user_id: 2}
    after = loader.load(user_id)
    source.may_answer.set()

    assert [await before, await after] == [1, 2]


async def test_nothing_is_left_behind(source: Source) -> None:
    loader = DataLoader(source.fetch)
    source.may_answer.set()

    await loads(loader, [uuid4() for _ in range(5)])
    await asyncio.sleep(0)

    assert (loader.waiting, loader.running, loader.scheduled) == ({}, set(), False)


async def test_a_fetch_has_the_context_of_the_first_of_its_loads() -> None:
    caller: ContextVar[int] = ContextVar("caller")
    seen: list[tuple[int, list[int]]] = []

    async def fetch(keys: list[int]) -> dict[int, int | Exception]:
        seen.append((caller.get(), keys))
        return {}

    loader: DataLoader[int, int] = DataLoader(fetch, batch=2)

    async def load(number: int) -> None:
        caller.set(number)
        await loader.load(number)

    await asyncio.gather(*(load(number) for number in range(5)))

    assert seen == [(0, [0, 1]), (2, [2, 3]), (4, [4])]
