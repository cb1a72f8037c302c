"""The inbox: each event takes effect once, however often it is delivered, and gets the same reply each time."""

import hashlib
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

import orjson
from cloudevents.core.v1.event import CloudEvent

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.errors import EventIdReused, EventInProgress, FieldError, InvalidEvent
from user_service.events.codec import Incoming
from user_service.events.types import BATCH_OPERATIONS, BATCH_REFUSED, BATCH_RESULT, BATCH_SCHEMAS, SCHEMA_URI
from user_service.idempotency.requests import find_first, is_same
from user_service.idempotency.stored_responses import INBOX, Links, StoredResponse, event_hash
from user_service.postgres.retention import OLD_REPLIES, delete_batch
from user_service.postgres.session import Session
from user_service.postgres.statements import text
from user_service.users.batch.results import PROBLEM_MEDIA_TYPE, BatchResponse

REPLY_IDS: Final = UUID("6f0d5d0c-3a51-5f0e-9d1c-5b8f0a9a7c11")

FIND_EVENT: Final = text("SELECT digest, reply FROM inbox WHERE source = :source AND id = :id")
# Each event removes a few expired ones, so that the table holds about one week's events.
REMOVE_OLD_EVENTS: Final = delete_batch("inbox", ("source", "id"), OLD_REPLIES, limit=10)
STORE_EVENT: Final = text(
    f"{REMOVE_OLD_EVENTS} INSERT INTO inbox (source, id, digest, reply, traceparent, mentions)"  # noqa: S608
    " VALUES (:source, :id, :digest, :reply, :traceparent, CAST(:mentions AS uuid[]))"
)


class InboxEntry:
    """One event: a `TransactionHook` over table inbox. `time` is that of the reply, the same each time.

    Raises InvalidEvent for data that is nested too deeply.
    """

    stores_all = True

    def __init__(self, event: Incoming, cipher: Cipher, index: BlindIndex) -> None:
        self.event = event
        self.cipher = cipher
        self.index = index
        self.time = datetime.now(UTC)
        self.name = event_hash(event.source, event.id)
        # Over the parsed data: a broker may redeliver in structured mode what came in binary mode.
        try:
            content = orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            # orjson reads 1,024 levels and writes 254.
            raise InvalidEvent("The event's data is nested deeper than 254 levels.") from None
        self.digest = hashlib.sha256(event.type.encode() + b"\0" + content).digest()

    async def before(self, session: Session) -> StoredResponse | None:
        """Raises EventInProgress at once while another transaction has the event, and EventIdReused."""
        key = {"source": self.event.source, "id": self.event.id}
        row = await find_first(session, self.name, FIND_EVENT, key, busy=EventInProgress())
        if row is None:
            return None
        if not is_same(row["digest"], self.digest, self.index):
            detail = "Give every event an id of its own; only the same event may come again under its id."
            fault = FieldError(f"{self.event.prefix}id", "event_id_reused", "has another event of this source")
            raise EventIdReused(detail, errors=[fault])
        head, body = INBOX.open(self.cipher, (self.event.source, self.event.id), row["reply"])
        status, media_type, time = orjson.loads(head)
        self.time = datetime.fromisoformat(time)
        return StoredResponse(status, [("content-type", media_type)], body)

    async def after(self, session: Session, response: StoredResponse, links: Links) -> None:
        head = orjson.dumps([response.status, dict(response.headers)["content-type"], self.time])
        key = (self.event.source, self.event.id)
        reply = INBOX.seal(self.cipher, key, head, response.body)
        values = {"source": self.event.source, "id": self.event.id, "digest": self.digest, "reply": reply}
        await session.execute(STORE_EVENT, values | links.columns)

    def reply(self, response: BatchResponse, *, source: str) -> CloudEvent:
        """The event with the response to this one."""
        operation = BATCH_OPERATIONS[self.event.type]
        is_refused = response.media_type == PROBLEM_MEDIA_TYPE
        return CloudEvent(
            {
                "specversion": "1.0",
                "id": str(uuid5(REPLY_IDS, self.name.hex())),
                "source": source,
                "type": BATCH_RESULT.format(operation),
                "time": self.time,
                "datacontenttype": response.media_type,
                "dataschema": SCHEMA_URI.format(BATCH_REFUSED if is_refused else BATCH_SCHEMAS[operation][1]),
                "causationid": self.event.id,
            },
            response.body,
        )
