"""The pipeline of an import: chunks are committed in order, and up to two are applied at once.

1. The turn of a chunk comes when the chunk before it has been committed; it is applied in its turn.
2. A chunk may start first, while the chunk before it is being applied, when the two have no unique key in common and
   the last `CLEAN_CHUNKS` chunks were clean: free of conflicts with users that were there before.
3. A chunk that started first waits for its turn before it is committed.
4. When it is not clean, or its turn does not come in time, it is rolled back and applied again in its turn.
5. When a chunk fails, the chunks behind it fail too.

So the result is that of applying one chunk after the other.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Set
from typing import Any, Final, Protocol, TypeVar

from user_service.errors import Conflict, Contended

# PostgreSQL applies two while the next one is validated and encrypted.
CHUNKS_AT_ONCE: Final = 3
# In a file of existing users, chunks that started first would be rolled back again and again.
CLEAN_CHUNKS: Final = 3
# The chunk before may wait in PostgreSQL for one that started first, through a lock of another transaction: a deadlock
# that PostgreSQL can't see. It detects its own after a second too, and gives up waiting for a lock after three.
TURN_TIMEOUT_SECONDS: Final = 1.0


class ImportMoved(Conflict):
    code, title = "import_in_progress", "Another request is continuing this import"


class OutOfTurn(Contended):
    """The chunk must be rolled back and applied again in its turn."""


class PipelineChunk(Protocol):
    @property
    def keys(self) -> Set[str]:
        """The unique keys that the chunk asks for."""


C = TypeVar("C", bound=PipelineChunk)


class Completion:
    """The end of one chunk."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.failed = False

    async def wait(self) -> None:
        """Returns once the chunk has been committed. Raises ImportMoved when it has failed."""
        await self.ended.wait()
        if self.failed:
            raise ImportMoved

    def set(self, task: "asyncio.Task[None]") -> None:
        self.failed = task.cancelled() or task.exception() is not None
        self.ended.set()


class Turn:
    """The place of one chunk in the order of the pipeline."""

    def __init__(self, pipeline: "Pipeline", earlier: Completion, before: Completion, *, may_start_first: bool) -> None:
        self.pipeline = pipeline
        self.earlier = earlier
        self.before = before
        self.may_start_first = may_start_first
        self.started_first = False
        self.completion = Completion()

    async def start(self) -> None:
        """Waits until the chunk may be applied, first or in its turn. Raises ImportMoved when a chunk before failed."""
        await self.earlier.wait()
        is_clean = self.pipeline.clean_chunks >= CLEAN_CHUNKS
        self.started_first = self.may_start_first and is_clean and not self.before.ended.is_set()
        if not self.started_first:
            await self.before.wait()

    async def finish(self, *, clean: bool) -> None:
        """Waits until the chunk may be committed. Raises OutOfTurn, and ImportMoved when a chunk before failed."""
        if not clean:
            self.pipeline.clean_chunks = 0
        if self.started_first:
            self.may_start_first = False
            if not clean:
                raise OutOfTurn
            try:
                async with asyncio.timeout(self.pipeline.turn_timeout_seconds):
                    await self.before.wait()
            except TimeoutError:
                raise OutOfTurn from None
        self.pipeline.clean_chunks += clean


class Pipeline:
    """Applies the chunks of one import. `clean_chunks` is the number of clean ones since the last that was not."""

    def __init__(self, *, turn_timeout_seconds: float = TURN_TIMEOUT_SECONDS) -> None:
        self.turn_timeout_seconds = turn_timeout_seconds
        self.clean_chunks = CLEAN_CHUNKS
        self.keys: Set[str] = frozenset()
        start = Completion()
        start.ended.set()
        self.earlier = self.before = start

    def next_turn(self, keys: Set[str]) -> Turn:
        turn = Turn(self, self.earlier, self.before, may_start_first=self.keys.isdisjoint(keys))
        self.keys, self.earlier, self.before = keys, self.before, turn.completion
        return turn

    async def run(self, chunks: AsyncIterator[C], apply: Callable[[C, Turn], Coroutine[Any, Any, None]]) -> None:
        """Calls `apply` for each chunk, which calls `start` and `finish` of its turn. Raises what they raise."""
        tasks: deque[asyncio.Task[None]] = deque()
        try:
            async for chunk in chunks:
                turn = self.next_turn(chunk.keys)
                if len(tasks) == CHUNKS_AT_ONCE:
                    await tasks.popleft()
                tasks.append(asyncio.create_task(apply(chunk, turn)))
                tasks[-1].add_done_callback(turn.completion.set)
            while tasks:
                await tasks.popleft()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
