"""Events in: each takes effect once, however often it is delivered, and is answered by the same reply each time."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
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
from user_service.idempotency.requests import StoredResponse, find_first, is_same
from user_service.idempotency.stored_responses import REPLIES, Links, event_name, found_in, mentions_of_find
from user_service.observability.metrics import Metrics
from user_service.postgres.retention import OLD_REPLIES, removal
from user_service.users.batch.bodies import FindBatch
from user_service.users.batch.results import BatchResponse
from user_service.users.batch.runner import BatchRunner, parse_batch
from user_service.users.change_log import Origin
from user_service.users.schemas import Body

REPLY_IDS: Final = UUID("6f0d5d0c-3a51-5f0e-9d1c-5b8f0a9a7c11")
UNKNOWN: Final = "unknown"

FIND: Final = text("SELECT digest, reply FROM inbox WHERE source = :source AND id = :id")
# Each event removes a few that are past their time, so that the table stays as large as a week's events.
REMOVE_OLD: Final = removal("inbox", ("source", "id"), OLD_REPLIES, limit=10)
KEEP: Final = text(
    f"{REMOVE_OLD} INSERT INTO inbox (source, id, digest, reply, traceparent, mentions)"  # noqa: S608
    " VALUES (:source, :id, :digest, :reply, :traceparent, CAST(:mentions AS uuid[]))"
)


class InboxEntry:
    """One event: a `TransactionHook` over table inbox. `time` is that of the reply, the same each time."""

    keeps_all = True

    def __init__(self, event: Incoming, cipher: Cipher, index: BlindIndex) -> None:
        self.event = event
        self.cipher = cipher
        self.index = index
        self.time = datetime.now(UTC)
        self.name = event_name(event.source, event.id)
        # Of what the body means: a broker may deliver again what it got in one mode in another one.
        content = orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
        self.digest = hashlib.sha256(event.type.encode() + b"\0" + content).digest()

    async def claim(self, session: AsyncSession) -> StoredResponse | None:
        """Raises EventInProgress at once while another transaction has the event, and EventIdReused."""
        key = {"source": self.event.source, "id": self.event.id}
        row = await find_first(session, self.name, FIND, key, busy=EventInProgress())
        if row is None:
            return None
        if not is_same(row.digest, self.digest, self.index):
            raise EventIdReused("Give every event an id of its own; only the same event may come again under its id.")
        head, body = REPLIES.open(self.cipher, (self.event.source, self.event.id), row.reply)
        status, media_type, time = orjson.loads(head)
        self.time = datetime.fromisoformat(time)
        return StoredResponse(status, [("content-type", media_type)], body)

    async def keep(self, session: AsyncSession, answer: StoredResponse, links: Links) -> None:
        head = orjson.dumps([answer.status, dict(answer.headers)["content-type"], self.time])
        key = (self.event.source, self.event.id)
        reply = REPLIES.seal(self.cipher, key, head, answer.body)
        values = {"source": self.event.source, "id": self.event.id, "digest": self.digest, "reply": reply}
        await session.execute(KEEP, values | links.columns)

    def reply(self, answer: BatchResponse) -> CloudEvent:
        """The event that tells what became of this one."""
        return CloudEvent(
            {
                "specversion": "1.0",
                "id": str(uuid5(REPLY_IDS, self.name.hex())),
                "source": SOURCE,
                "type": BATCH_RESULT.format(BATCH_OPERATIONS[self.event.type]),
                "time": self.time,
                "datacontenttype": answer.media_type,
                "causationid": self.event.id,
            },
            answer.body,
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
        self.handlers: Mapping[str, Callable[[Incoming, Origin], Awaitable[CloudEvent | None]]] = {
            PING: self.answer_ping,
            **dict.fromkeys(BATCH_OPERATIONS, self.answer_batch),
        }

    def check_all(self, events: Sequence[Incoming], *, is_batch: bool) -> None:
        """Raises InvalidEvent for an unknown type, and for data that is no batch."""
        for index, event in enumerate(events):
            self.check(event, f"/{index}" if is_batch else "")

    def check(self, event: Incoming, pointer: str) -> None:
        if event.type not in self.handlers:
            self.received.add(UNKNOWN, "refused")
            raise InvalidEvent(f"There is no event of this type here; known are {', '.join(self.handlers)}.")
        if event.type in BATCH_OPERATIONS:
            try:
                parse_body(event, pointer)
            except InvalidEvent:
                self.received.add(event.type, "refused")
                raise

    async def answer(self, event: Incoming, origin: Origin) -> CloudEvent | None:
        """The reply to a checked event; None for one that gets none.

        Raises EventIdReused, EventInProgress, PayloadTooLarge, DatabaseUnavailable, Contended.
        """
        outcome = "failed"
        try:
            reply = await self.handlers[event.type](event, origin)
            outcome = "processed"
        except ServiceError as error:
            outcome = "failed" if error.status >= 500 else "busy" if error.status == 409 else "refused"
            raise
        finally:
            self.received.add(event.type, outcome)
        return reply

    async def answer_ping(self, event: Incoming, origin: Origin) -> None:
        await self.relay()

    async def answer_batch(self, event: Incoming, origin: Origin) -> CloudEvent:
        entry = InboxEntry(event, self.cipher, self.batches.storage.index)
        body = parse_body(event, "")
        operation = BATCH_OPERATIONS[event.type]
        if isinstance(body, FindBatch):
            return entry.reply(await self.find_once(operation, body, origin, entry))
        return entry.reply(await self.batches.run(operation, body, origin, once=entry))

    async def find_once(self, operation: str, body: Body, origin: Origin, entry: InboxEntry) -> BatchResponse:
        """A find changes nothing, but is answered the same each time.

        Whom it has found is held until the reply is kept, so that an erasure comes before the find or meets the reply.
        """
        async with self.batches.storage.unit_of_work(origin) as service:
            session = service.repository.session
            if (kept := await entry.claim(session)) is not None:
                return BatchResponse.replay(kept)
            answer = await self.batches.run(operation, body, origin)
            while not await service.repository.hold(found_in(answer.body)):
                answer = await self.batches.run(operation, body, origin, fresh=True)
            mentions = partial(mentions_of_find, answer.body, entry.index)
            await entry.keep(session, answer.to_keep(), Links(origin.traceparent, mentions))
        return answer


def parse_body(event: Incoming, pointer: str) -> Body:
    """The batch that an event carries. Raises InvalidEvent."""
    try:
        return parse_batch(BATCH_OPERATIONS[event.type], event.data)
    except ValidationFailed as error:
        faults = [fault._replace(pointer=f"{pointer}/data{fault.pointer}") for fault in error.errors]
        raise InvalidEvent("The event's data is not the body of a batch.", errors=faults) from None


def documents_of(replies: Sequence[CloudEvent]) -> list[dict[str, Any]]:
    """Replies as the JSON format has them, for a batch; their data is JSON."""
    return [
        {**reply.get_attributes(), "data": orjson.Fragment(data)}
        for reply in replies
        if isinstance(data := reply.get_data(), bytes)
    ]
