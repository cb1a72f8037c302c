"""Times as text: RFC 3339, 5.6."""

import re
from datetime import UTC, datetime
from typing import Final

# `fromisoformat` checks the calendar.
RFC3339_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)
MIN_TIMESTAMP: Final = datetime(1, 1, 1, tzinfo=UTC)
MAX_TIMESTAMP: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def format_rfc3339(moment: datetime) -> str:
    """A time in UTC."""
    return moment.isoformat().replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """In UTC. A time outside the years 1 to 9999 of UTC becomes the nearest one within. Raises ValueError."""
    if not RFC3339_TIMESTAMP.fullmatch(text):
        raise ValueError("not a time in RFC 3339 format")
    moment = datetime.fromisoformat(text.upper())
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return MIN_TIMESTAMP if moment.year == 1 else MAX_TIMESTAMP
