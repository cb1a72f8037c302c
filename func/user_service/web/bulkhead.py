"""A room for requests that take much memory: a few at a time, and nobody waits for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from user_service.errors import Overloaded


class Bulkhead:
    """Holds `size` requests; refuses those that have waited for `seconds`."""

    def __init__(self, size: int, *, seconds: float) -> None:
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
            raise Overloaded(f"This replica is at work on {self.size} large requests already.") from None
        try:
            yield
        finally:
            self.places.release()
