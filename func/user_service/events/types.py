"""Types of events, and the changes that become events. Nothing here imports the CloudEvents SDK."""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

USER_EVENT: Final = "org.userservice.user.{}.v1"
PING: Final = "dev.knative.sources.ping"
# The batch operation of each type of incoming event, and the type of the reply.
BATCH_OPERATIONS: Final = {
    f"org.userservice.batch.{operation}.v1": operation
    for operation in ("create", "update", "delete", "restore", "find")
}
BATCH_RESULT: Final = "org.userservice.batch.{}.result.v1"


class PendingChange(NamedTuple):
    """A change whose event is in the outbox. `is_oldest`: no other row of the partition was written before."""

    seq: int
    is_oldest: bool
    refusals: int
    user_id: UUID
    version: int
    event_id: UUID
    type: str
    status: str
    changed: list[str]
    actor: str
    traceparent: str
    changed_at: datetime

    def attributes(self, source: str) -> dict[str, Any]:
        """The event's attributes, the same in every attempt."""
        return {
            "specversion": "1.0",
            "id": str(self.event_id),
            "source": source,
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
