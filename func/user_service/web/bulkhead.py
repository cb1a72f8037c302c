"""A bulkhead for requests that take much memory: a few run at a time, and the others wait for a bounded time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from user_service.errors import Overloaded

# The process validates and encrypts one while PostgreSQL writes two. More take ten megabytes each and end no sooner.
LARGE_BODIES_AT_ONCE: Final = 3
# Time for a hundred batches.
WAIT_SECONDS: Final = 5.0


class Bulkhead:
    """Lets `size` requests run at a time; refuses those that have waited for `seconds`."""

    def __init__(self, size: int = LARGE_BODIES_AT_ONCE, *, seconds: float = WAIT_SECONDS) -> None:
        self.size = size
        self.seconds = seconds
        self.places = asyncio.Semaphore(size)

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Raises Overloaded."""
        try:
            async with asyncio.timeout(self.seconds):
                await self.places.acquire()
        except TimeoutError:
            raise Overloaded(f"This replica processes {self.size} large requests already.") from None
        try:
            yield
        finally:
            self.places.release()
