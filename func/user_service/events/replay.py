"""Events that are posted again: those of changes that the feed has, and dead letters of a broker."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

import orjson
from cloudevents.core.bindings.http import HTTPMessage

from user_service.events.codec import REQUIRED_ATTRIBUTES, STRUCTURED
from user_service.events.distributed_reads import find_changes
from user_service.events.feed import Feed
from user_service.events.feed_places import select_places
from user_service.events.relay import retry_delay
from user_service.events.sink import POSTS_AT_ONCE, DeliveryOutcome, HttpSink
from user_service.events.types import USER_EVENT, PendingChange
from user_service.observability.logging import log

PAGE_CHANGES: Final = 1000
# How many positions a statement passes over at most.
SCANNED_POSITIONS: Final = 100_000
# A failing sink is given about ten seconds.
ATTEMPTS: Final = 6

FLOOR: Final = "SELECT floor FROM feed_state"
PAGE: Final = select_places(
    "$1::bigint",
    "$2::bigint",
    limit=str(PAGE_CHANGES),
    condition="changed_at >= $3 AND ($4::timestamptz IS NULL OR changed_at < $4)",
)
# What Knative adds to an event on its way: the reason of a dead letter, and how often it may still be passed on.
KNATIVE_ATTRIBUTES: Final = "knative"


class SinkFailing(Exception):
    """The sink does not take events. `position`: all changes up to it were posted."""

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


class Selection(NamedTuple):
    """Which events are posted again. Empty `types` are all."""

    since: datetime | None
    until: datetime | None
    types: Collection[str]

    def includes(self, event: dict[str, Any], time: datetime | None) -> bool:
        """Whether an event is among them; one without a time is, whatever the times are."""
        if self.types and event["type"] not in self.types:
            return False
        is_late = time is None or self.since is None or time >= self.since
        return is_late and (time is None or self.until is None or time < self.until)


class Replay:
    """Posts events to a sink, and counts them."""

    def __init__(self, sink: HttpSink | None) -> None:
        """Without a sink, events are counted only."""
        self.sink = sink
        self.published = 0
        self.refused = 0
        self.posting = asyncio.Semaphore(POSTS_AT_ONCE)
        self.failure: SinkFailing | None = None

    async def post_changes(self, feed: Feed, selection: Selection, *, after: int | None) -> None:
        """Posts the events of changes in the feed's order, each user's one after the other. Raises SinkFailing."""
        async for start, changes in read_changes(feed, selection, after=after):
            by_user: dict[UUID, list[PendingChange]] = {}
            for change in changes:
                by_user.setdefault(change.user_id, []).append(change)
            await asyncio.gather(*(self.post_user_changes(of_user) for of_user in by_user.values()))
            if self.failure is not None:
                raise SinkFailing(self.failure.reason, start)

    async def post_user_changes(self, changes: Sequence[PendingChange]) -> None:
        for change in changes:
            async with self.posting:
                if self.failure is not None:
                    return
                try:
                    await self.post(change)
                except SinkFailing as error:
                    self.failure = error

    async def post(self, event: PendingChange | dict[str, Any]) -> None:
        """Posts one event, again while the sink fails. Raises SinkFailing."""
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(retry_delay(attempt - 1))
            outcome, reason = await self.post_once(event)
            if outcome is DeliveryOutcome.PUBLISHED:
                self.published += 1
                return
            if outcome is DeliveryOutcome.REFUSED:
                self.refused += 1
                event_id = str(event.event_id) if isinstance(event, PendingChange) else event["id"]
                log.error("the sink refuses an event", extra={"event": event_id, "status": reason})
                return
        raise SinkFailing(reason)

    async def post_once(self, event: PendingChange | dict[str, Any]) -> tuple[DeliveryOutcome, str]:
        if self.sink is None:
            return DeliveryOutcome.PUBLISHED, ""
        if isinstance(event, PendingChange):
            return await self.sink.post(event)
        message = HTTPMessage({"content-type": f"{STRUCTURED}; charset=utf-8"}, orjson.dumps(event))
        # The id becomes a header where events are signed.
        return await self.sink.send(message, quote(event["id"]))


async def read_changes(
    feed: Feed, selection: Selection, *, after: int | None
) -> AsyncIterator[tuple[int, list[PendingChange]]]:
    """The selected changes in the order of the feed, each page with the position before it."""
    fetch = feed.pool.fetch
    last = await feed.sequence()
    ((floor,),) = await fetch(FLOOR)
    position: int = floor if after is None else max(floor, after)
    while position < last:
        start, end = position, min(position + SCANNED_POSITIONS, last)
        rows = await fetch(PAGE, start, end, selection.since, selection.until)
        position = rows[-1]["position"] if len(rows) == PAGE_CHANGES else end
        found = await find_changes(rows, fetch)
        changes = [found[key] for row in rows if (key := (row["user_id"], row["version"])) in found]
        types = selection.types
        yield (
            start,
            [
                PendingChange(0, False, 0, *change)
                for change in changes
                if not types or USER_EVENT.format(change["type"]) in types
            ],
        )


def read_dead_letters(document: Any) -> Iterator[dict[str, Any]]:
    """The events in a document: one event, the Secret that a JobSink has made of one, or a list of either.

    Without what Knative has added to them. Raises ValueError.
    """
    if isinstance(document, dict) and document.get("kind") == "List":
        document = document.get("items")
    for part in document if isinstance(document, list) else [document]:
        yield read_dead_letter(part)


def read_dead_letter(document: Any) -> dict[str, Any]:
    if isinstance(document, dict) and document.get("kind") == "Secret":
        document = read_secret(document)
    if not isinstance(document, dict) or not all(
        isinstance(document.get(name), str) and document[name] for name in REQUIRED_ATTRIBUTES
    ):
        raise ValueError("neither an event (CloudEvents 1.0, JSON format) nor a JobSink's Secret with one")
    event = {name: value for name, value in document.items() if not name.startswith(KNATIVE_ATTRIBUTES)}
    try:
        orjson.dumps(event)
    except TypeError:
        raise ValueError("an event that is nested deeper than 254 levels") from None
    return event


def read_secret(secret: dict[str, Any]) -> Any:
    try:
        return orjson.loads(base64.b64decode(secret["data"]["event"], validate=True))
    except (KeyError, TypeError, binascii.Error, orjson.JSONDecodeError):
        raise ValueError("a Secret without an event: `data.event` must be the base64 of one") from None
