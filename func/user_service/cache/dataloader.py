"""Single look-ups that become sets: what is asked for while a fetch is under way goes out together in the next one.

An idle service fetches at once; a busy one pays for one round trip where it would have paid for thirty.
"""

from asyncio import Future, Task, get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from typing import Generic, TypeVar
from uuid import UUID

V = TypeVar("V")


class DataLoader(Generic[V]):
    """Loads values by id through `fetch`, at most `width` fetches at once, `batch` ids each.

    What `fetch` leaves out has no value; an exception in a value's place is that key's alone. A fetch starts after
    every `load` that it answers, so that a load sees what was committed before it.
    """

    def __init__(
        self,
        fetch: Callable[[list[UUID]], Awaitable[Mapping[UUID, V | Exception]]],
        *,
        width: int = 2,
        batch: int = 500,
    ) -> None:
        self.fetch = fetch
        self.width = width
        self.batch = batch
        self.waiting: dict[UUID, list[Future[V | None]]] = {}
        self.running: set[Task[None]] = set()
        self.scheduled = False
        # Of the first who waits, so that a fetch belongs to a trace that asked for it.
        self.context: Context | None = None

    def load(self, key: UUID) -> Future[V | None]:
        """The value of `key`, None where there is none, or the error of the fetch."""
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
            task.add_done_callback(self.finished)

    def finished(self, task: Task[None]) -> None:
        self.running.discard(task)
        self.start()

    async def run(self, asked: dict[UUID, list[Future[V | None]]]) -> None:
        found: Mapping[UUID, V | Exception]
        try:
            found = await self.fetch(list(asked))
        except Exception as error:
            found = dict.fromkeys(asked, error)
        for key, futures in asked.items():
            for future in futures:
                if not future.done():
                    settle(future, found.get(key))


def settle(future: Future[V | None], outcome: V | Exception | None) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
