"""The rows of the change log: names of the changed fields, never values, with the actor and the request."""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from user_service.users.model import User

# The last part of an event's type.
ChangeType = Literal["created", "updated", "status_changed", "deleted", "restored", "erased", "purged"]
CHANGE_TYPES: Final[tuple[str, ...]] = get_args(ChangeType)
CHANGE_COLUMNS: Final = (
    "user_id, version, event_id, type, status, changed, changed_at, actor, request_id, traceparent, reason"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a change: the principal's name, the request's id, its W3C trace context, and its reason."""

    actor: str
    request_id: str
    traceparent: str
    reason: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the change log that all changes of a request have in common."""
        return {
            "actor": self.actor,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
            "reason": self.reason,
        }


class Change(NamedTuple):
    """A new version of a user. `type` is one of CHANGE_TYPES."""

    user: User
    type: str
    changed: tuple[str, ...]
