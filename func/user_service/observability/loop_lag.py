"""The lag of the event loop: code that blocks it, or a lack of processor time, delays every request."""

from asyncio import AbstractEventLoop, TimerHandle, get_running_loop
from typing import Final

from user_service.observability.metrics import Histogram

INTERVAL_SECONDS: Final = 0.5


class LoopLagMonitor:
    """Sets a timer twice a second and records how late it fires."""

    def __init__(self, lag: Histogram) -> None:
        self.lag = lag
        self.loop: AbstractEventLoop | None = None
        self.timer: TimerHandle | None = None

    def start(self) -> None:
        """Begins to measure the running loop."""
        loop = self.loop = get_running_loop()
        self.timer = loop.call_later(INTERVAL_SECONDS, self.record, loop.time() + INTERVAL_SECONDS)

    def record(self, due: float) -> None:
        assert self.loop is not None
        self.lag.observe((), max(0.0, self.loop.time() - due))
        self.start()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
