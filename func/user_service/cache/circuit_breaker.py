"""A circuit breaker for calls that a service can do without."""

from time import monotonic
from typing import Final


class CircuitBreaker:
    """Keeps callers away from what has failed three times in a row; lets them try again after a pause."""

    THRESHOLD: Final = 3
    PAUSE_SECONDS: Final = 1.0

    def __init__(self) -> None:
        self.failures = 0
        self.open_until = 0.0

    @property
    def is_open(self) -> bool:
        return monotonic() < self.open_until

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= self.THRESHOLD:
            self.open_until = monotonic() + self.PAUSE_SECONDS

    def succeeded(self) -> None:
        self.failures, self.open_until = 0, 0.0
