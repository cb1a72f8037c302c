"""Types of events, and the changes that become events. Nothing here imports the CloudEvents SDK."""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

SOURCE: Final = "/user-service"
USER_EVENT: Final = "org.userservice.user.{}.v1"
PING: Final = "dev.knative.sources.ping"
# The batch operation of each type of incoming event, and the type of the reply.
BATCH_OPERATIONS: Final = {
    f"org.userservice.batch.{operation}.v1": operation
    for operation in ("create", "update", "delete", "restore", "find")
}
BATCH_RESULT: Final = "org.userservice.batch.{}.result.v1"


class Position(NamedTuple):
    """The position of a partition's cursor: every change up to it is handled."""

    txid: int
    user_id: UUID
    version: int


ChangeKey = tuple[UUID, int]


class PendingChange(NamedTuple):
    """A row of the change log that is to be posted as an event."""

    txid: int
    user_id: UUID
    version: int
    type: str
    status: str
    changed: list[str]
    actor: str
    traceparent: str
    changed_at: datetime

    @property
    def position(self) -> Position:
        return Position(self.txid, self.user_id, self.version)

    @property
    def key(self) -> ChangeKey:
        return self.user_id, self.version

    @property
    def attributes(self) -> dict[str, Any]:
        """The event's attributes; `id` is the same in every attempt."""
        return {
            "specversion": "1.0",
            "id": f"{self.user_id}-{self.version}",
            "source": SOURCE,
            "type": USER_EVENT.format(self.type),
            "subject": str(self.user_id),
            "time": self.changed_at,
            "datacontenttype": "application/json",
            "sequence": str(self.version),
            "partitionkey": str(self.user_id),
            "traceparent": self.traceparent,
        }

    @property
    def data(self) -> dict[str, Any]:
        """The event's data: names of fields, never their values."""
        return {
            "id": str(self.user_id),
            "version": self.version,
            "status": self.status,
            "changed": self.changed,
            "actor": self.actor,
        }
