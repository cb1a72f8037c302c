"""Types of events, and what the outbox hands to a sink. Nothing here imports the CloudEvents SDK."""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

SOURCE: Final = "/user-service"
USER_EVENT: Final = "org.userservice.user.{}.v1"
PING: Final = "dev.knative.sources.ping"
# The batches that an event may ask for, by the type of the event, and the type of the reply to each operation.
BATCH_OPERATIONS: Final = {
    f"org.userservice.batch.{operation}.v1": operation
    for operation in ("create", "update", "delete", "restore", "find")
}
BATCH_RESULT: Final = "org.userservice.batch.{}.result.v1"


class Place(NamedTuple):
    """A place in a lane: everything up to it has been dealt with."""

    txid: int
    user_id: UUID
    version: int


class PendingChange(NamedTuple):
    """One row of the change log that waits to become an event."""

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
    def place(self) -> Place:
        return Place(self.txid, self.user_id, self.version)

    @property
    def attributes(self) -> dict[str, Any]:
        """The event's attributes; `id` is the same at every attempt."""
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
        """Names of fields, never their values."""
        return {
            "id": str(self.user_id),
            "version": self.version,
            "status": self.status,
            "changed": self.changed,
            "actor": self.actor,
        }
