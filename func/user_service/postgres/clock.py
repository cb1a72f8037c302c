"""What time it is in PostgreSQL, which is one clock for all replicas, whatever their own say."""

from math import inf
from time import monotonic
from typing import Final

# By then two clocks may have drifted apart by more than a look at PostgreSQL costs.
KNOWN_SECONDS: Final = 60.0


class DatabaseClock:
    """Between which bounds PostgreSQL's clock is ahead of this process's monotonic one.

    What PostgreSQL said of the time was true somewhere between question and answer. So a moment is turned into a time
    that is not later than it, and a time into a moment that is not later: what is old is never taken for young.
    """

    def __init__(self) -> None:
        self.observed_at = -inf
        self.least, self.most = -inf, inf

    @property
    def is_known(self) -> bool:
        return monotonic() - self.observed_at < KNOWN_SECONDS

    def observe(self, sent: float, told: float) -> None:
        """Takes the time, in seconds since 1970, that PostgreSQL gave to a statement which was sent at a moment."""
        self.observed_at = monotonic()
        self.least, self.most = told - self.observed_at, told - sent

    def time_of(self, moment: float) -> float:
        """PostgreSQL's time at a moment of this process, or somewhat earlier."""
        return moment + self.least

    def moment_of(self, time: float) -> float:
        """The moment of this process at a time of PostgreSQL's, or somewhat earlier."""
        return time - self.most
