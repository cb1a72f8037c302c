"""Streams of any length: exports and the feed of changes. They go on where a connection was cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from user_service_client.cursors import CursorStore
from user_service_client.errors import ConnectionFailed, UnexpectedResponse
from user_service_client.models import Change, ChangePage, ChangeType, FileFormat, Filters, User
from user_service_client.runners import Resource, iteration
from user_service_client.service import USERS, add_query, filter_parameters
from user_service_client.steps import (
    MEDIA_TYPES,
    Emit,
    Emits,
    Request,
    Sleep,
    T,
    exchange,
    parse_as,
    parse_line,
    read_lines,
    read_pieces,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

WAIT_SECONDS = 20
FOREVER = float("inf")


class StreamMethods(Resource):
    @iteration
    def export(self, **filters: Unpack[Filters]) -> Emits[User]:
        """All users that match the filters, in one stream; if it is cut off, it goes on after the last user."""
        return read_export(self, filters, (), parse_line(User, "user"))

    @iteration
    def export_lines(self, *, fields: Sequence[str] = (), **filters: Unpack[Filters]) -> Emits[bytes]:
        """The same as lines of NDJSON, with these fields of each user and its id; without fields, all of them."""
        return read_export(self, filters, fields, lambda line: line + b"\n")

    @iteration
    def export_csv(self, *, fields: Sequence[str] = (), **filters: Unpack[Filters]) -> Emits[bytes]:
        """A file of CSV, piece by piece. Raises ConnectionFailed if it is cut off: begin again."""
        yield from self.service.open(export_request(filters, fields, "csv"), "csv")
        yield from read_pieces(lambda piece: [Emit(piece)])

    @iteration
    def change_pages(
        self, *, after: str | None = None, follow: bool = False, change_type: ChangeType | None = None
    ) -> Emits[ChangePage]:
        """The feed of changes, for a program that stores each page with its `next_cursor` in one transaction.

        Without `follow`, it ends at the newest change; with it, it waits for the next ones, and once the service has
        responded, for a service that is away. Raises CursorGone.
        """
        return read_changes(self, after, follow, change_type, lambda page: iter([Emit(page)]))

    @iteration
    def changes(
        self, *, after: str | CursorStore | None = None, follow: bool = False, change_type: ChangeType | None = None
    ) -> Emits[Change]:
        """The changes one by one, as `change_pages`.

        A CursorStore, such as CursorFile, remembers the place. It is saved when all changes of a page were taken, so a
        program that was ended meets some changes of that page again: the same `user_id` and `version`.
        """
        if after is None or isinstance(after, str):
            return read_changes(self, after, follow, change_type, lambda page: map(Emit, page.items))
        store = after

        def emit_and_save(page: ChangePage) -> Iterator[Emit[Change]]:
            yield from map(Emit, page.items)
            store.save(page.next_cursor)

        return read_changes(self, store.load(), follow, change_type, emit_and_save)


def export_request(filters: Filters, fields: Sequence[str], file_format: FileFormat) -> Request:
    parameters = filter_parameters(filters) | ({"fields": ",".join(fields)} if fields else {})
    return Request("GET", add_query(f"{USERS}/export", parameters), {"Accept": MEDIA_TYPES[file_format]})


def read_export(self: Resource, filters: Filters, fields: Sequence[str], parse: Callable[[bytes], T]) -> Emits[T]:
    """Each line of an export, parsed, once; a stream that is cut off is opened again after the last whole line."""
    retry, failures, deadline = self.service.retry, 0, 0.0
    last_id, skipped_to = "", ""

    def emit(line: bytes) -> Iterator[Emit[T]]:
        nonlocal failures, last_id
        user_id = read_id(line)
        if user_id > skipped_to:
            emitted = Emit(parse(line))
            last_id, failures = max(last_id, user_id), 0
            yield emitted

    while True:
        yield from self.service.open(export_request(filters, fields, "ndjson"), "ndjson")
        try:
            yield from read_lines(emit)
            return
        except (ConnectionFailed, UnexpectedResponse):
            if failures == 0:
                deadline = monotonic() + retry.deadline_seconds
            pause = retry.pause_seconds(failures, None)
            if monotonic() + pause > deadline:
                raise
            failures += 1
        yield Sleep(pause)
        if last_id:
            # The time of creation is in the id (UUIDv7), by which an export is sorted.
            skipped_to = last_id
            filters["created_after"] = creation_time(last_id) - timedelta(milliseconds=1)


def read_id(line: bytes) -> str:
    """The id of the user of a line. Raises UnexpectedResponse."""
    try:
        return str(UUID(json.loads(line)["id"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnexpectedResponse(200, "a line that is no user") from None


def creation_time(user_id: str) -> datetime:
    """The time in a UUIDv7, to the millisecond."""
    return datetime.fromtimestamp((UUID(user_id).int >> 80) / 1000, timezone.utc)


def read_changes(
    self: Resource,
    after: str | None,
    follow: bool,
    change_type: ChangeType | None,
    emit_page: Callable[[ChangePage], Iterator[Emit[T]]],
) -> Emits[T]:
    """What `emit_page` makes of each page of changes; the next page is asked for when all of it was taken."""
    service, retry = self.service, self.service.retry
    parameters = {"limit": "1000", "wait": str(WAIT_SECONDS if follow else 0)}
    if change_type is not None:
        parameters["type"] = change_type
    while True:
        request = Request(
            "GET",
            add_query(f"{USERS}/changes", parameters | ({"after": after} if after is not None else {})),
            extra_seconds=WAIT_SECONDS if follow else 0,
        )
        page = yield from exchange(request, parse_as(ChangePage), retry, timeout_seconds=service.timeout_seconds)
        yield from emit_page(page)
        is_end = page.next_cursor == after or not (page.items or change_type)
        after = page.next_cursor
        if follow:
            retry = replace(retry, deadline_seconds=FOREVER)
        elif is_end:
            return
