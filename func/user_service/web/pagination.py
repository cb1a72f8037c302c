"""The list's parameters and pages."""

from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import Field

from user_service.errors import FieldError, ValidationFailed
from user_service.users.cursors import CursorCodec
from user_service.users.schemas import Email, ExternalId
from user_service.users.search import Page
from user_service.users.search import Query as UserListQuery
from user_service.web.dependencies import resources_of
from user_service.web.problems import request_context
from user_service.web.query_types import Time, whole_number

METADATA_PREFIX: Final = "metadata."
PageSize = Annotated[int, Field(ge=1, le=200), whole_number]
PLACE_PARAMETERS: Final = frozenset({"cursor", "limit"})


async def user_query(
    request: Request,
    email: Annotated[Email | None, Query()] = None,
    external_id: Annotated[ExternalId | None, Query()] = None,
    status: Annotated[Literal["pending", "active", "suspended", "deleted"] | None, Query()] = None,
    q: Annotated[str | None, Query(max_length=200, description="Whole words of the names, all of them")] = None,
    created_after: Annotated[Time | None, Query()] = None,
    created_before: Annotated[Time | None, Query()] = None,
    updated_after: Annotated[Time | None, Query()] = None,
    include: Annotated[Literal["deleted"] | None, Query()] = None,
    sort: Annotated[Literal["created_at", "-created_at", "updated_at", "-updated_at"], Query()] = "created_at",
    limit: Annotated[PageSize, Query()] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> UserListQuery:
    """The query of a list request. Raises ValidationFailed, InvalidCursor."""
    return UserListQuery(
        email=email,
        external_id=external_id,
        status=status,
        q=q,
        created_after=created_after,
        created_before=created_before,
        updated_after=updated_after,
        metadata=metadata_filters(request),
        include_deleted=include == "deleted",
        sort=sort,
        limit=limit,
        cursor=codec(request).decode(cursor, query=asked(request)) if cursor is not None else None,
    )


UserQuery = Annotated[UserListQuery, Depends(user_query)]


def metadata_filters(request: Request) -> dict[str, str]:
    """The `metadata.<key>=<value>` parameters. Raises ValidationFailed for a nameless one."""
    filters = {
        name.removeprefix(METADATA_PREFIX): value
        for name, value in request.query_params.items()
        if name.startswith(METADATA_PREFIX)
    }
    if "" in filters:
        raise ValidationFailed(errors=[FieldError("?metadata.", "metadata", "name the key, as metadata.plan=pro")])
    return filters


def codec(request: Request) -> CursorCodec:
    return CursorCodec(resources_of(request).keys.cursor)


def asked(request: Request) -> dict[str, str]:
    """What makes two requests pages of one list."""
    return {name: value for name, value in request.query_params.items() if name not in PLACE_PARAMETERS}


def page_response(request: Request, page: Page) -> Response:
    request_context(request).rows = len(page.users)
    following = codec(request).encode(page.next, query=asked(request)) if page.next is not None else None
    items = b",".join(user.to_json() for user in page.users)
    headers = {"Cache-Control": "private, no-store"}
    if following is not None:
        parameters = {**request.query_params, "cursor": following}
        headers["Link"] = f'<{request.url.path}?{urlencode(parameters)}>; rel="next"'
    body = b'{"items":[' + items + b'],"next_cursor":' + orjson.dumps(following) + b"}"
    return Response(body, 200, headers, "application/json")
