"""The change log's rows: what changed, by whom, in which request. Names of fields, never values."""

from dataclasses import dataclass
from typing import NamedTuple

from user_service.users.model import User


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change comes from: the principal's name, the request's id and its W3C trace context."""

    actor: str
    request_id: str
    traceparent: str


class Change(NamedTuple):
    """A new version of a user, who is as it leaves them. `type` ends the event's name: created, updated and so on."""

    user: User
    type: str
    changed: tuple[str, ...]
