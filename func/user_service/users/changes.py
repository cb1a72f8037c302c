"""The change log's rows: what changed, by whom, in which request. Names of fields, never values."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change comes from: the principal's name, the request's id and its W3C trace context."""

    actor: str
    request_id: str
    traceparent: str


class Change(NamedTuple):
    """One version of one user. `type` ends the name of the event: created, updated, status_changed and so on."""

    user_id: UUID
    version: int
    type: str
    status: str
    changed: tuple[str, ...]
