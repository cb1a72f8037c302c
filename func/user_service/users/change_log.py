"""The rows of the change log: names of the changed fields, never values, with the actor and the request."""

from dataclasses import dataclass
from typing import NamedTuple

from user_service.users.model import User


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a change: the principal's name, the request's id, its W3C trace context, and its reason."""

    actor: str
    request_id: str
    traceparent: str
    reason: str | None = None


class Change(NamedTuple):
    """A new version of a user. `type` is the last part of the event's type: created, updated and so on."""

    user: User
    type: str
    changed: tuple[str, ...]
