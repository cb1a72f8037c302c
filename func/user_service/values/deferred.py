"""A value that is built on a worker thread when it is first needed, such as one whose modules import slowly."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deferred(Generic[T]):
    """Builds one value. A build that fails raises for all callers that wait, and the next `get` builds again."""

    def __init__(self, build: Callable[[], T]) -> None:
        self.build = build
        # The built value; None until then.
        self.value: T | None = None
        self.task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The value. Concurrent callers share one build; a caller that is cancelled does not end it."""
        return self.value if self.value is not None else await asyncio.shield(self.start())

    def start(self) -> "asyncio.Task[T]":
        """Begins to build, unless that was begun already."""
        if self.task is None:
            self.task = asyncio.create_task(self.run())
        return self.task

    async def run(self) -> T:
        try:
            self.value = await asyncio.to_thread(self.build)
        except BaseException:
            self.task = None
            raise
        return self.value

    async def get_if_started(self) -> T | None:
        """Waits for a build under way, as is needed before closing; None where there is no value."""
        if self.task is not None:
            await asyncio.wait([self.task])
        return self.value
