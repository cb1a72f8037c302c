"""PostgreSQL's clock, the one clock that all replicas share."""

from math import inf
from time import monotonic
from typing import Final

# After this long the two clocks may have drifted apart by more than the duration of a query.
MAX_OBSERVATION_AGE_SECONDS: Final = 60.0


class DatabaseClock:
    """The bounds of the difference between PostgreSQL's clock and this process's monotonic one.

    A time that PostgreSQL returned was its time at some moment between request and response. Both conversions return
    the lower bound, so that an old value never appears to be newer than it is.
    """

    def __init__(self) -> None:
        self.observed_at = -inf
        self.min_offset, self.max_offset = -inf, inf

    @property
    def is_known(self) -> bool:
        return monotonic() - self.observed_at < MAX_OBSERVATION_AGE_SECONDS

    def observe(self, sent_at: float, database_time: float) -> None:
        """Records the time, in seconds since 1970, that a statement sent at the monotonic time `sent_at` returned."""
        self.observed_at = monotonic()
        self.min_offset, self.max_offset = database_time - self.observed_at, database_time - sent_at

    def to_database_time(self, moment: float) -> float:
        """PostgreSQL's time at a monotonic time of this process, or slightly earlier."""
        return moment + self.min_offset

    def to_monotonic(self, database_time: float) -> float:
        """This process's monotonic time at a time of PostgreSQL, or slightly earlier."""
        return database_time - self.max_offset
