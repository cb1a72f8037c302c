"""A circuit breaker: the cache and the rate limits have one for Redis, new connections have one for PostgreSQL."""

from asyncio import Task, create_task, sleep, timeout, wait
from collections.abc import Awaitable, Callable
from typing import Final

from user_service.observability.logging import log

FAILURES_TO_OPEN: Final = 3
PROBE_TIMEOUT_SECONDS: Final = 1.0
PROBE_PAUSE_SECONDS: Final = 0.5


def describe_error(error: Exception) -> str:
    """The type of an error of a server and its message, which quotes no value of a user."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class CircuitBreaker:
    """Opens after three failures in a row. A background task then probes the server; a success closes the breaker.

    `user` names the caller and `server` the server in the log. `probe` raises while the server is unavailable, or takes
    longer than `probe_seconds`; `count_failure` is called each time that it does. `explain` gives the reason for the
    log where the error does not.
    """

    def __init__(
        self,
        user: str,
        *,
        probe: Callable[[], Awaitable[object]],
        count_failure: Callable[[], None],
        server: str = "Redis",
        probe_seconds: float = PROBE_TIMEOUT_SECONDS,
        explain: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.user = user
        self.server = server
        self.probe = probe
        self.probe_seconds = probe_seconds
        self.count_failure = count_failure
        self.explain = explain
        self.failures = 0
        self.recovery: Task[None] | None = None
        self.closing = False

    @property
    def is_open(self) -> bool:
        """Whether the server must not be called."""
        return self.recovery is not None

    async def wait_until_closed(self) -> None:
        if self.recovery is not None:
            await wait([self.recovery])

    def record_success(self) -> None:
        self.failures = 0

    def record_failure(self, error: Exception) -> None:
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN and self.recovery is None:
            reason = self.explain() or describe_error(error)
            log.warning(f"going on without {self.server}", extra={"for": self.user, "reason": reason})
            self.recovery = create_task(self.recover())

    async def recover(self) -> None:
        while not await self.probe_succeeds():
            # A client may turn a cancellation into an error of its own, so the flag ends the task too.
            if self.closing:
                return
            await sleep(PROBE_PAUSE_SECONDS)
        self.failures, self.recovery = 0, None
        log.info(f"{self.server} is back", extra={"for": self.user})

    async def probe_succeeds(self) -> bool:
        try:
            async with timeout(self.probe_seconds):
                await self.probe()
        except Exception:
            self.count_failure()
            return False
        return True

    async def close(self) -> None:
        """Ends the probes."""
        self.closing = True
        if self.recovery is not None:
            self.recovery.cancel()
            await wait([self.recovery])
