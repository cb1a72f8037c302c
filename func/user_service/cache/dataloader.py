"""Collects single look-ups that run concurrently, and fetches them as one set.

An idle service fetches at once. A busy one makes one round trip for the look-ups that arrive during a fetch.
"""

from asyncio import Future, Task, get_running_loop
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import Context, copy_context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class DataLoader(Generic[K, V]):
    """Loads values by key through `fetch`: at most `width` fetches at once, of at most `batch` keys each.

    A key that `fetch` does not return has no value. An exception in place of a value is raised for that key only. A
    fetch starts after every `load` that it serves, so that a load sees what was committed before it.
    """

    def __init__(
        self,
        fetch: Callable[[list[K]], Awaitable[Mapping[K, V | Exception]]],
        *,
        width: int = 2,
        batch: int = 500,
    ) -> None:
        self.fetch = fetch
        self.width = width
        self.batch = batch
        self.waiting: dict[K, list[Future[V | None]]] = {}
        self.running: set[Task[None]] = set()
        self.scheduled = False
        # Of the first load that waits, so that a fetch belongs to the trace of one of its loads.
        self.context: Context | None = None

    def load(self, key: K) -> Future[V | None]:
        """The value of a key, None if it has none, or the error of the fetch."""
        loop = get_running_loop()
        future: Future[V | None] = loop.create_future()
        self.waiting.setdefault(key, []).append(future)
        if self.context is None:
            self.context = copy_context()
        if not self.scheduled and len(self.running) < self.width:
            self.scheduled = True
            loop.call_soon(self.start)
        return future

    def start(self) -> None:
        self.scheduled = False
        while self.waiting and len(self.running) < self.width:
            keys = list(self.waiting)[: self.batch]
            context, self.context = self.context, None
            work = self.run({key: self.waiting.pop(key) for key in keys})
            task = get_running_loop().create_task(work, context=context)
            self.running.add(task)
            task.add_done_callback(self.finish)

    def finish(self, task: Task[None]) -> None:
        self.running.discard(task)
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
