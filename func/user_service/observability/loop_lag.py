"""How late the event loop is: what blocks it, or starves it of processor time, delays every request."""

from asyncio import AbstractEventLoop, TimerHandle, get_running_loop
from typing import Final

from user_service.observability.metrics import Histogram

INTERVAL_SECONDS: Final = 0.5


class LoopLagMonitor:
    """Sets a timer twice a second and observes how late it rings."""

    def __init__(self, lag: Histogram) -> None:
        self.lag = lag
        self.loop: AbstractEventLoop | None = None
        self.timer: TimerHandle | None = None

    def start(self) -> None:
        """Begins to watch the running loop."""
        loop = self.loop = get_running_loop()
        self.timer = loop.call_later(INTERVAL_SECONDS, self.ring, loop.time() + INTERVAL_SECONDS)

    def ring(self, due: float) -> None:
        assert self.loop is not None
        self.lag.observe((), max(0.0, self.loop.time() - due))
        self.start()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
