"""The inbox: each event takes effect once, however often it is delivered, and gets the same reply each time."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import orjson
from cloudevents.core.v1.event import CloudEvent
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.errors import EventIdReused, EventInProgress, InvalidEvent, ServiceError, ValidationFailed
from user_service.events.codec import Incoming
from user_service.events.types import BATCH_OPERATIONS, BATCH_RESULT, PING, SOURCE
from user_service.idempotency.requests import find_first, is_same
from user_service.idempotency.stored_responses import INBOX, Links, StoredResponse, event_hash
from user_service.observability.metrics import Metrics
from user_service.postgres.retention import OLD_REPLIES, delete_batch
from user_service.users.batch.bodies import Batch, FindBatch
from user_service.users.batch.operations import parse_batch
from user_service.users.batch.results import BatchResponse
from user_service.users.batch.runner import BatchRunner
from user_service.users.change_log import Origin
from user_service.users.schemas import Body

REPLY_IDS: Final = UUID("6f0d5d0c-3a51-5f0e-9d1c-5b8f0a9a7c11")
UNKNOWN_TYPE: Final = "unknown"

FIND_EVENT: Final = text("SELECT digest, reply FROM inbox WHERE source = :source AND id = :id")
# Each event removes a few expired ones, so that the table holds about one week's events.
REMOVE_OLD_EVENTS: Final = delete_batch("inbox", ("source", "id"), OLD_REPLIES, limit=10)
STORE_EVENT: Final = text(
    f"{REMOVE_OLD_EVENTS} INSERT INTO inbox (source, id, digest, reply, traceparent, mentions)"  # noqa: S608
    " VALUES (:source, :id, :digest, :reply, :traceparent, CAST(:mentions AS uuid[]))"
)


class ParsedEvent(NamedTuple):
    """An event of a known type. `body` is the batch in its data, validated; None for a ping."""

    event: Incoming
    body: Body | None


class InboxEntry:
    """One event: a `TransactionHook` over table inbox. `time` is that of the reply, the same each time."""

    stores_all = True

    def __init__(self, event: Incoming, cipher: Cipher, index: BlindIndex) -> None:
        self.event = event
        self.cipher = cipher
        self.index = index
        self.time = datetime.now(UTC)
        self.name = event_hash(event.source, event.id)
        # Over the parsed data: a broker may redeliver in structured mode what came in binary mode.
        content = orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
        self.digest = hashlib.sha256(event.type.encode() + b"\0" + content).digest()

    async def before(self, session: AsyncSession) -> StoredResponse | None:
        """Raises EventInProgress at once while another transaction has the event, and EventIdReused."""
        key = {"source": self.event.source, "id": self.event.id}
        row = await find_first(session, self.name, FIND_EVENT, key, busy=EventInProgress())
        if row is None:
            return None
        if not is_same(row.digest, self.digest, self.index):
            raise EventIdReused("Give every event an id of its own; only the same event may come again under its id.")
        head, body = INBOX.open(self.cipher, (self.event.source, self.event.id), row.reply)
        status, media_type, time = orjson.loads(head)
        self.time = datetime.fromisoformat(time)
        return StoredResponse(status, [("content-type", media_type)], body)

    async def after(self, session: AsyncSession, response: StoredResponse, links: Links) -> None:
        head = orjson.dumps([response.status, dict(response.headers)["content-type"], self.time])
        key = (self.event.source, self.event.id)
        reply = INBOX.seal(self.cipher, key, head, response.body)
        values = {"source": self.event.source, "id": self.event.id, "digest": self.digest, "reply": reply}
        await session.execute(STORE_EVENT, values | links.columns)

    def reply(self, response: BatchResponse) -> CloudEvent:
        """The event with the response to this one."""
        return CloudEvent(
            {
                "specversion": "1.0",
                "id": str(uuid5(REPLY_IDS, self.name.hex())),
                "source": SOURCE,
                "type": BATCH_RESULT.format(BATCH_OPERATIONS[self.event.type]),
                "time": self.time,
                "datacontenttype": response.media_type,
                "causationid": self.event.id,
            },
            response.body,
        )


class Inbox:
    """Dispatches events by their type."""

    def __init__(
        self, batches: BatchRunner, cipher: Cipher, metrics: Metrics, *, relay: Callable[[], Awaitable[None]]
    ) -> None:
        self.batches = batches
        self.cipher = cipher
        self.received = metrics.events_received
        self.relay = relay
        self.handlers: Mapping[str, Callable[[ParsedEvent, Origin], Awaitable[CloudEvent | None]]] = {
            PING: self.process_ping,
            **dict.fromkeys(BATCH_OPERATIONS, self.process_batch),
        }

    def parse_all(self, events: Sequence[Incoming], *, is_batch: bool) -> list[ParsedEvent]:
        """The events with their bodies. Raises InvalidEvent for an unknown type, and for data that is not a batch."""
        return [self.parse(event, f"/{index}" if is_batch else "") for index, event in enumerate(events)]

    def parse(self, event: Incoming, pointer: str) -> ParsedEvent:
        if event.type not in self.handlers:
            self.received.add(UNKNOWN_TYPE, "refused")
            raise InvalidEvent(f"This type of event is unknown; known are {', '.join(self.handlers)}.")
        if event.type not in BATCH_OPERATIONS:
            return ParsedEvent(event, None)
        try:
            return ParsedEvent(event, parse_body(event, pointer))
        except InvalidEvent:
            self.received.add(event.type, "refused")
            raise

    async def process(self, parsed: ParsedEvent, origin: Origin) -> CloudEvent | None:
        """The reply to an event; None for a ping.

        Raises EventIdReused, EventInProgress, PayloadTooLarge, DatabaseUnavailable, Contended.
        """
        outcome = "failed"
        try:
            reply = await self.handlers[parsed.event.type](parsed, origin)
            outcome = "processed"
        except ServiceError as error:
            outcome = "failed" if error.status >= 500 else "busy" if error.status == 409 else "refused"
            raise
        finally:
            self.received.add(parsed.event.type, outcome)
        return reply

    async def process_ping(self, ping: ParsedEvent, origin: Origin) -> None:
        await self.relay()

    async def process_batch(self, parsed: ParsedEvent, origin: Origin) -> CloudEvent:
        entry = InboxEntry(parsed.event, self.cipher, self.batches.database.index)
        if isinstance(parsed.body, FindBatch):
            return entry.reply(await self.find_once(parsed.body, origin, entry))
        assert isinstance(parsed.body, Batch)
        operation = BATCH_OPERATIONS[parsed.event.type]
        return entry.reply(await self.batches.run(operation, parsed.body, origin, hook=entry))

    async def find_once(self, body: FindBatch, origin: Origin, entry: InboxEntry) -> BatchResponse:
        """A find changes nothing, but has one stored reply.

        The users that it has found are locked until the reply is stored, so that an erasure is either committed before
        the find or redacts the reply.
        """
        async with self.batches.database.unit_of_work(origin) as service:
            session = service.repository.session
            if (stored := await entry.before(session)) is not None:
                return BatchResponse.replay(stored)
            response = await self.batches.find(body)
            while not await service.repository.lock_against_erasure(response.found_ids):
                response = await self.batches.find(body, fresh=True)
            mentions = partial(response.mentions, entry.index)
            await entry.after(session, response.to_stored(), Links(origin.traceparent, mentions))
        return response


def parse_body(event: Incoming, pointer: str) -> Body:
    """The batch that an event carries. Raises InvalidEvent."""
    try:
        return parse_batch(BATCH_OPERATIONS[event.type], event.data)
    except ValidationFailed as error:
        faults = [fault._replace(pointer=f"{pointer}/data{fault.pointer}") for fault in error.errors]
        raise InvalidEvent("The event's data is not the body of a batch.", errors=faults) from None


def reply_documents(replies: Sequence[CloudEvent]) -> list[dict[str, Any]]:
    """Replies as a batch in the JSON format has them; their data is JSON."""
    return [
        {**reply.get_attributes(), "data": orjson.Fragment(data)}
        for reply in replies
        if isinstance(data := reply.get_data(), bytes)
    ]
