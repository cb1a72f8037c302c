"""Types of events, the schemas of their data, and the changes that become events.

Nothing here imports the CloudEvents SDK. web/event_schemas.py has the schemas by their names.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

USER_EVENT: Final = "org.userservice.user.{}.v1"
# What each type of change says of a user.
CHANGES: Final = {
    "created": "A user was created",
    "updated": "Fields of a user were changed",
    "status_changed": "A user's status was changed, and perhaps other fields",
    "deleted": "A user was deleted; it can be restored",
    "restored": "A deleted user was restored",
    "erased": "A person's data was erased; the id and the version remain",
    "purged": "A user was removed for good",
}
PING: Final = "dev.knative.sources.ping"
# The batch operation of each type of incoming event, and the type of the reply.
BATCH_OPERATIONS: Final = {
    f"org.userservice.batch.{operation}.v1": operation
    for operation in ("create", "update", "delete", "restore", "find")
}
BATCH_RESULT: Final = "org.userservice.batch.{}.result.v1"

# The schema of an event's data, by its name: the attribute `dataschema`.
SCHEMA_URI: Final = "urn:user-service:schema:{}"
USER_CHANGE: Final = "user-change.v1"
BATCH_REFUSED: Final = "batch-refused.v1"
# The schemas of the request and of the reply of each batch operation.
BATCH_SCHEMAS: Final = {
    "create": ("batch-create.v1", "batch-result.v1"),
    "update": ("batch-update.v1", "batch-result.v1"),
    "delete": ("batch-users.v1", "batch-result.v1"),
    "restore": ("batch-users.v1", "batch-result.v1"),
    "find": ("batch-find.v1", "find-result.v1"),
}


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
            "dataschema": SCHEMA_URI.format(USER_CHANGE),
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
