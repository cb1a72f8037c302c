"""`GET /api/v1/audit`: who changed or exported what, and when, over all users."""

from datetime import datetime
from typing import Annotated, Final, Literal

import orjson
from fastapi import Depends, Query
from pydantic import BaseModel, Field

from user_service.users.audit_log import AuditLog, AuditQuery
from user_service.users.change_log import ChangeType
from user_service.users.cursors import Cursor
from user_service.users.model import JSON_OPTIONS
from user_service.web.dependencies import UserId, get_database, get_resources, requires
from user_service.web.openapi import COMMON_PROBLEMS
from user_service.web.pagination import PageSize, cursor_codec, list_parameters, page_headers
from user_service.web.problems import request_context
from user_service.web.query_types import Timestamp
from user_service.web.responses import RawResponse, make_response
from user_service.web.routing import JsonRequest, make_router

router = make_router("audit", prefix="/api/v1/audit", responses=COMMON_PROBLEMS)
# Sets this list's cursors apart from those of others.
LIST: Final = {"list": "audit"}

EntryType = Literal[ChangeType, "exported"]


class AuditEntryRead(BaseModel):
    """A change of a user, or a read of an export: names of fields, never their values."""

    id: str = Field(description="The id of the change's event", examples=["0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"])
    user_id: str | None = Field(description="Null for an export of many users")
    version: int | None = Field(ge=1, description="Null for an export")
    type: EntryType
    status: Literal["pending", "active", "suspended", "deleted"] | None = Field(
        description="The status after the change; null for an export"
    )
    changed: list[str] = Field(description="Names of the fields that changed")
    actor: str
    request_id: str | None = Field(description="Null once the user is erased or purged")
    traceparent: str
    changed_at: datetime
    reason: str | None = Field(description="The `X-Change-Reason` of the request")


class AuditPage(BaseModel):
    """A page of entries, the newest first; `next_cursor` is null on the last page."""

    items: list[AuditEntryRead]
    next_cursor: str | None


@router.get("", response_model=AuditPage, dependencies=[Depends(requires("audit:read"))])
async def read_audit(
    request: JsonRequest,
    actor: Annotated[str | None, Query(max_length=255, description="Such as `api-key:billing`")] = None,
    type: Annotated[EntryType | None, Query()] = None,  # noqa: A002 - the parameter's name
    user_id: Annotated[UserId | None, Query()] = None,
    after: Annotated[Timestamp | None, Query(description="Entries after this time")] = None,
    before: Annotated[Timestamp | None, Query(description="Entries before this time")] = None,
    limit: Annotated[PageSize, Query()] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> RawResponse:
    """Changes of all users, and reads of exports, the newest first, without values. Needs `audit:read`."""
    get_resources(request).require_database()
    codec = cursor_codec(request)
    own = LIST | list_parameters(request)
    place = codec.decode(cursor, query=own) if cursor is not None else None
    query = AuditQuery(actor=actor, type=type, user_id=user_id, after=after, before=before, limit=limit, cursor=place)
    async with get_database(request).transaction() as session:
        entries, last = await AuditLog(session).page(query)
    request_context(request).rows = len(entries)
    next_cursor = codec.encode(Cursor(*last), query=own) if last is not None else None
    body = orjson.dumps({"items": entries, "next_cursor": next_cursor}, option=JSON_OPTIONS)
    return make_response(200, body, page_headers(request, next_cursor))
