"""Dispatch of incoming events by their type: a ping to the relay, a batch to the batch operation of its type."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
from cloudevents.core.v1.event import CloudEvent

from user_service.encryption.cipher import Cipher
from user_service.errors import FieldError, InvalidEvent, PayloadTooLarge, ServiceError, ValidationFailed
from user_service.events.codec import Incoming
from user_service.events.inbox import InboxEntry
from user_service.events.types import BATCH_OPERATIONS, PING
from user_service.idempotency.stored_responses import Links
from user_service.observability.metrics import Metrics
from user_service.users.batch.bodies import Batch, FindBatch, check_size
from user_service.users.batch.operations import parse_batch
from user_service.users.batch.results import BatchResponse
from user_service.users.batch.runner import BatchRunner
from user_service.users.change_log import Origin
from user_service.users.schemas import Body

UNKNOWN_TYPE: Final = "unknown"


class ParsedEvent(NamedTuple):
    """An event of a known type. `body` is the batch in its data, validated; None for a ping."""

    event: Incoming
    body: Body | None


class EventDispatcher:
    """Runs events by their type, each once."""

    def __init__(
        self,
        batches: BatchRunner,
        cipher: Cipher,
        metrics: Metrics,
        *,
        source: str,
        relay: Callable[[], Awaitable[None]],
    ) -> None:
        """`source` is that of the replies."""
        self.batches = batches
        self.cipher = cipher
        self.received = metrics.events_received
        self.source = source
        self.relay = relay
        self.handlers: Mapping[str, Callable[[ParsedEvent, Origin], Awaitable[CloudEvent | None]]] = {
            PING: self.process_ping,
            **dict.fromkeys(BATCH_OPERATIONS, self.process_batch),
        }

    def parse_all(self, events: Sequence[Incoming], *, is_batch: bool) -> list[ParsedEvent]:
        """The events with their bodies.

        Raises InvalidEvent for an unknown type and for data that is not a batch, PayloadTooLarge for too many items.
        """
        return [self.parse(event, f"/{index}" if is_batch else "") for index, event in enumerate(events)]

    def parse(self, event: Incoming, pointer: str) -> ParsedEvent:
        if event.type not in self.handlers:
            self.received.add(UNKNOWN_TYPE, "refused")
            known = f"known are {', '.join(self.handlers)}"
            fault = FieldError(event.prefix + "type", "unknown_type", f"must be a type that is known; {known}")
            raise InvalidEvent(f"This type of event is unknown; {known}.", errors=[fault])
        if event.type not in BATCH_OPERATIONS:
            return ParsedEvent(event, None)
        try:
            return ParsedEvent(event, parse_body(event, pointer))
        except (InvalidEvent, PayloadTooLarge):
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
            return entry.reply(await self.find_once(parsed.body, origin, entry), source=self.source)
        assert isinstance(parsed.body, Batch)
        operation = BATCH_OPERATIONS[parsed.event.type]
        response = await self.batches.run(operation, parsed.body, origin, hook=entry)
        return entry.reply(response, source=self.source)

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
    """The batch that an event carries. Raises InvalidEvent, PayloadTooLarge."""
    try:
        body = parse_batch(BATCH_OPERATIONS[event.type], event.data)
    except ValidationFailed as error:
        faults = [fault._replace(pointer=f"{pointer}/data{fault.pointer}") for fault in error.errors]
        raise InvalidEvent("The event's data is not the body of a batch.", errors=faults) from None
    fault = FieldError(f"{pointer}/data", "too_large", "has too many items")
    check_size(event.size, of="items or keys", errors=[fault])
    return body


def reply_documents(replies: Sequence[CloudEvent]) -> list[dict[str, Any]]:
    """Replies as a batch in the JSON format has them; their data is JSON."""
    return [
        {**reply.get_attributes(), "data": orjson.Fragment(data)}
        for reply in replies
        if isinstance(data := reply.get_data(), bytes)
    ]
