"""Collects single look-ups or writes that run concurrently, and runs them as one set.

An idle service runs them at once. A busy one makes one round trip for those that arrive during another.
"""

from asyncio import Future, Task, TimerHandle, get_running_loop
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class DataLoader(Generic[K, V]):
    """Loads values by key through `fetch`: at most `width` fetches at once, of at most `batch` keys each.

    A key that `fetch` does not return has no value. An exception in place of a value is raised for that key only. A
    fetch starts after every `load` that it serves, so that a load sees what was committed before it.

    A key whose loads were all cancelled is not fetched. With `patience`, a fetch that takes longer than these seconds
    is not among the `width`, so that it does not hold up others, and is cancelled when all its loads are.
    """

    def __init__(
        self,
        fetch: Callable[[list[K]], Awaitable[Mapping[K, V | Exception]]],
        *,
        width: int = 2,
        batch: int = 500,
        patience: float | None = None,
    ) -> None:
        self.fetch = fetch
        self.width = width
        self.batch = batch
        self.patience = patience
        # With the context of the first load of the key, so that a fetch belongs to the trace of one of its loads.
        self.waiting: dict[K, tuple[Context, list[Future[V | None]]]] = {}
        self.running: set[Task[None]] = set()
        self.slow: set[Task[None]] = set()
        self.scheduled = False

    def load(self, key: K) -> Future[V | None]:
        """The value of a key, None if it has none, or the error of the fetch."""
        loop = get_running_loop()
        future: Future[V | None] = loop.create_future()
        if key in self.waiting:
            self.waiting[key][1].append(future)
        else:
            self.waiting[key] = copy_context(), [future]
        if not self.scheduled and len(self.running) < self.width:
            self.scheduled = True
            loop.call_soon(self.start)
        return future

    def start(self) -> None:
        self.scheduled = False
        while self.waiting and len(self.running) < self.width:
            taken = self.take_batch()
            if not taken:
                continue
            loads = {key: futures for key, (_, futures) in taken.items()}
            context, _ = next(iter(taken.values()))
            loop = get_running_loop()
            task = loop.create_task(self.run(loads), context=context)
            self.running.add(task)
            timer = loop.call_later(self.patience, self.set_aside, task, loads) if self.patience is not None else None
            task.add_done_callback(partial(self.finish, timer))

    def take_batch(self) -> dict[K, tuple[Context, list[Future[V | None]]]]:
        """Takes keys off those that wait, without those whose loads were all cancelled."""
        taken = [(key, self.waiting.pop(key)) for key in list(self.waiting)[: self.batch]]
        return {key: loads for key, loads in taken if not all(future.done() for future in loads[1])}

    def set_aside(self, task: Task[None], loads: dict[K, list[Future[V | None]]]) -> None:
        """Starts others beside a fetch that takes long, and cancels it as soon as all its loads are cancelled."""
        self.running.discard(task)
        self.slow.add(task)
        left = {future for futures in loads.values() for future in futures}

        def forget(future: Future[V | None]) -> None:
            left.discard(future)
            if future.cancelled() and not left:
                task.cancel()

        for future in list(left):
            future.add_done_callback(forget)
        self.start()

    def finish(self, timer: TimerHandle | None, task: Task[None]) -> None:
        if timer is not None:
            timer.cancel()
        self.running.discard(task)
        self.slow.discard(task)
        self.start()

    async def run(self, loads: dict[K, list[Future[V | None]]]) -> None:
        values: Mapping[K, V | Exception]
        try:
            values = await self.fetch(list(loads))
        except Exception as error:
            values = dict.fromkeys(loads, error)
        for key, futures in loads.items():
            for future in futures:
                if not future.done():
                    resolve(future, values.get(key))


def resolve(future: Future[V | None], outcome: V | Exception | None) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
