import asyncio
from collections.abc import AsyncIterator

import pytest

from support.waiting import eventually
from user_service.resilience.circuit_breaker import FAILURES_TO_OPEN, CircuitBreaker

ERROR = ConnectionError("refused")


class Server:
    """Something that can be unavailable, and the number of probes that it refused."""

    def __init__(self) -> None:
        self.is_available = False
        self.refused = 0

    async def probe(self) -> None:
        if not self.is_available:
            raise ERROR

    def count_failure(self) -> None:
        self.refused += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def breaker(server: Server) -> AsyncIterator[CircuitBreaker]:
    breaker = CircuitBreaker("a test", probe=server.probe, count_failure=server.count_failure)
    yield breaker
    await breaker.close()


async def is_closed(breaker: CircuitBreaker) -> bool:
    return not breaker.is_open


async def test_it_opens_after_failures_in_a_row_only(breaker: CircuitBreaker) -> None:
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(ERROR)
    breaker.record_success()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure(ERROR)
    before = breaker.is_open
    breaker.record_failure(ERROR)

    assert not before
    assert breaker.is_open


async def test_it_closes_once_a_probe_succeeds_and_counts_those_that_fail(
    breaker: CircuitBreaker, server: Server
) -> None:
    for _ in range(FAILURES_TO_OPEN + 1):
        breaker.record_failure(ERROR)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    was_open, refused = breaker.is_open, server.refused
    server.is_available = True
    await eventually(lambda: is_closed(breaker))
    breaker.record_failure(ERROR)

    assert was_open
    assert refused == server.refused == 1
    assert not breaker.is_open, "failures from before are counted again"


async def test_closing_ends_a_probe_that_turns_a_cancellation_into_an_error() -> None:
    probing = asyncio.Event()

    async def probe() -> None:
        probing.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ERROR from None

    breaker = CircuitBreaker("a test", probe=probe, count_failure=lambda: None)
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure(ERROR)
    recovery = breaker.recovery
    assert recovery is not None
    await probing.wait()

    async with asyncio.timeout(60):
        await breaker.close()

    assert recovery.done()
