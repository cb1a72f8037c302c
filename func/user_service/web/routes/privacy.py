"""`/api/v1/users/{user_id}/audit`, `/export` and `/erase`: access to personal data, and its erasure."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from user_service.users.audit import AuditTrail
from user_service.users.change_log import ChangeType
from user_service.users.model import JSON_OPTIONS
from user_service.users.schemas import UserRead
from user_service.web.dependencies import ChangeCondition, Changes, UserId, get_database, get_resources, requires
from user_service.web.openapi import COMMON_PROBLEMS, problems
from user_service.web.pagination import PageSize, cursor_codec, page_headers
from user_service.web.problems import request_context
from user_service.web.responses import RawResponse, empty_response, make_response
from user_service.web.routing import JsonRequest, make_router
from user_service.web.streams import ClosingResponse

router = make_router("privacy", prefix="/api/v1/users", responses=COMMON_PROBLEMS)
reading = [Depends(requires("users:read"))]


class ChangeRead(BaseModel):
    """One version of a user: names of fields, never their values."""

    id: str = Field(description="The id of the change's event", examples=["0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"])
    version: int = Field(ge=1)
    type: ChangeType
    status: Literal["pending", "active", "suspended", "deleted"] = Field(description="The status after the change")
    changed: list[str] = Field(description="Names of the fields that changed")
    actor: str = Field(
        description="The fingerprint of an API key, a keyed hash of a token's subject, or an alias of one"
    )
    request_id: str | None = Field(description="Null once the user is erased or purged")
    traceparent: str = Field(description="W3C trace context of the request")
    changed_at: datetime
    reason: str | None = Field(
        description="The `X-Change-Reason` of the request; an erasure or a purge clears all but its own"
    )


class ChangePage(BaseModel):
    """A page of changes, the oldest first; `next_cursor` is null on the last page."""

    items: list[ChangeRead]
    next_cursor: str | None


class StoredResponseRead(BaseModel):
    """A stored response, to a request with an Idempotency-Key, that contains data of the person."""

    created_at: datetime
    expires_at: datetime


class EventReplyRead(BaseModel):
    """A stored reply to an event that contains data of the person."""

    source: str
    id: str
    processed_at: datetime


class ExportNoted(BaseModel):
    """A read of the person's export."""

    actor: str
    request_id: str | None
    traceparent: str
    exported_at: datetime
    reason: str | None


class ImportStarted(BaseModel):
    id: UUID
    started_at: datetime


class BlindIndexesRead(BaseModel):
    """What is stored as keyed hashes of the person's data."""

    email: bool = Field(description="Whether the person has an e-mail address")
    identifiers: int = Field(description="The number of addresses, usernames and external ids that the person holds")
    search_terms: int = Field(description="The number of hashes by which a search finds the person")


class ActorRead(BaseModel):
    """What the person did with tokens: the names in the audit trail, the number of changes, and imports."""

    names: list[str]
    changes: int
    imports: list[ImportStarted]


class StoredRead(BaseModel):
    """Data stored besides the user and the changes."""

    prior_status: str | None = Field(description="The status after a restore")
    blind_indexes: BlindIndexesRead
    idempotency_answers: list[StoredResponseRead]
    event_replies: list[EventReplyRead]
    scim: dict[str, Any] = Field(description="What an identity provider has sent that has no field")
    exports: list[ExportNoted] = Field(description="Reads of this document, and this one")
    as_actor: ActorRead


class PersonalExportRead(BaseModel):
    """All data stored about one person; `user` is null when it was purged."""

    exported_at: datetime
    user: UserRead | None
    stored: StoredRead
    changes: list[ChangeRead]


@router.get("/{user_id:user}/audit", response_model=ChangePage, dependencies=reading, responses=problems(404))
async def read_audit_trail(
    request: JsonRequest,
    user_id: UserId,
    limit: Annotated[PageSize, Query()] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> RawResponse:
    """Who changed a user, and when, without values. Includes deleted, erased and purged users."""
    codec, query = cursor_codec(request), {"audit": str(user_id)}
    after = codec.decode_version(cursor, query=query) if cursor is not None else 0
    get_resources(request).require_database()
    async with get_database(request).transaction() as session:
        changes, last_version = await AuditTrail(session).page(user_id, after=after, limit=limit)
    request_context(request).rows = len(changes)
    next_cursor = codec.encode_version(last_version, query=query) if last_version is not None else None
    body = orjson.dumps({"items": changes, "next_cursor": next_cursor}, option=JSON_OPTIONS)
    return make_response(200, body, page_headers(request, next_cursor))


@router.get("/{user_id:user}/export", response_model=PersonalExportRead, dependencies=reading, responses=problems(404))
async def export_user(request: Request, user_id: UserId) -> Response:
    """All data stored about one person, in plain text: the user, deleted or not, the audit trail, and more."""
    get_resources(request).require_database()
    await get_database(request).note_export(request_context(request).origin, user_id)
    pieces = get_database(request).export_user(user_id, actor_names=get_resources(request).actor_names)
    # Raises UserNotFound before the response starts.
    first = await anext(pieces)
    request_context(request).rows = 1
    headers = {"Content-Disposition": f'attachment; filename="user-{user_id}.json"', "Cache-Control": "no-store"}
    return ClosingResponse(pieces, first=first, media_type="application/json", headers=headers)


@router.post(
    "/{user_id:user}/erase",
    status_code=204,
    dependencies=[Depends(requires("users:erase"))],
    responses=problems(404, 409, 410, 412),
)
async def erase_user(request: Request, user_id: UserId, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Erase a person permanently. A tombstone with the id and the version remains. Repeating it returns 204 too."""
    names = get_resources(request).actor_names
    return await changes.run_in_transaction(
        lambda users: users.erase(user_id, condition=condition, actor_names=names), empty_response
    )
