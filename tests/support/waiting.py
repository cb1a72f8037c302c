"""Waiting for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable

# How long a test waits for what must come; far beyond what it takes.
PATIENCE_SECONDS = 60.0


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the condition holds. Raises TimeoutError after PATIENCE_SECONDS."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        met = await condition()
        while not met:
            await asyncio.sleep(0.05)
            met = await condition()


def wait_until(
    condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS, pause_seconds: float = 0.05
) -> None:
    """Returns when the condition holds. Raises TimeoutError, with `what` in its message."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause_seconds)
