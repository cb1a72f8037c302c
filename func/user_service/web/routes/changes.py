"""`GET /api/v1/users/changes`: the feed of all committed changes."""

from datetime import datetime
from time import monotonic
from typing import Annotated, Final, Literal

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from user_service.events.feed import FeedPage
from user_service.postgres.pool import read_seconds
from user_service.users.change_log import ChangeType
from user_service.users.cursors import FeedCursor
from user_service.users.model import JSON_OPTIONS
from user_service.web.dependencies import get_resources, requires
from user_service.web.openapi import COMMON_PROBLEMS, problems
from user_service.web.pagination import cursor_codec
from user_service.web.problems import request_context
from user_service.web.query_types import strict_integer
from user_service.web.routing import make_router

MAX_CHANGES: Final = 1000
MAX_WAIT_SECONDS: Final = 20

router = make_router("changes", prefix="/api/v1/users", responses=COMMON_PROBLEMS)
reading = [Depends(requires("users:read"))]


class FeedChangeRead(BaseModel):
    """One version of a user: names of fields, never their values."""

    user_id: str
    version: int = Field(ge=1)
    type: ChangeType
    status: Literal["pending", "active", "suspended", "deleted"] = Field(description="The status after the change")
    changed: list[str] = Field(description="Names of the fields that changed")
    actor: str
    time: datetime
    id: str = Field(description="The id of the change's event", examples=["0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"])


class FeedPageRead(BaseModel):
    """Changes in order. `next_cursor` is there even when there are none; at the end it is the one of the request."""

    items: list[FeedChangeRead]
    next_cursor: str


@router.get("/changes", response_model=FeedPageRead, dependencies=reading, responses=problems(410))
async def follow_changes(
    request: Request,
    after: Annotated[
        str | None, Query(max_length=200, description="The last `next_cursor`; absent: from the beginning")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=MAX_CHANGES), strict_integer, Query()] = 100,
    type: Annotated[ChangeType | None, Query()] = None,  # noqa: A002 - the parameter's name
    wait: Annotated[
        int,
        Field(ge=0, le=MAX_WAIT_SECONDS),
        strict_integer,
        Query(description="Seconds to wait for a change where there is none"),
    ] = 0,
) -> Response:
    """Follow the committed changes of all users, each once, in the order of each user's versions."""
    codec = cursor_codec(request)
    cursor = codec.decode_position(after) if after is not None else None
    get_resources(request).require_database()
    page = await read_page(request, cursor, limit=limit, change_type=type, wait=wait)
    request_context(request).rows = len(page.items)
    body = {"items": page.items, "next_cursor": codec.encode_position(page.next)}
    return Response(orjson.dumps(body, option=JSON_OPTIONS), 200, {"Cache-Control": "no-store"}, "application/json")


async def read_page(
    request: Request, cursor: FeedCursor | None, *, limit: int, change_type: str | None, wait: int
) -> FeedPage:
    """The next page; an empty one after `wait` seconds, or when the server stops. Raises CursorGone, Overloaded."""
    resources = get_resources(request)
    await resources.feed.sequence()
    # The rest of the request's time is for the database.
    longest = resources.settings.request_timeout - read_seconds(resources.settings) - 1
    deadline = monotonic() + max(0, min(wait, longest))
    while True:
        page = await resources.feed.read(cursor, limit=limit, change_type=change_type)
        cursor = page.next
        if page.items or monotonic() >= deadline or resources.feed_watch.stopping:
            return page
        if page.next.position == page.last_position:
            await wait_for_change(request, page, seconds=deadline - monotonic())


async def wait_for_change(request: Request, page: FeedPage, *, seconds: float) -> None:
    """Waits for a change after a page. The request counts neither as in flight nor as slow meanwhile."""
    resources, context, since = get_resources(request), request_context(request), monotonic()
    requests = resources.metrics.requests
    requests.in_flight -= 1
    try:
        if page.is_cut:
            await resources.feed_watch.wait_for_visibility(seconds=seconds)
        else:
            await resources.feed_watch.wait_beyond(page.last_position, seconds=seconds)
    finally:
        requests.in_flight += 1
        context.leave_out(monotonic() - since)
