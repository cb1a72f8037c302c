"""The query parameters of the list of users, and its pages."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote_plus

import orjson
from fastapi import Depends, Query, Request
from pydantic import Field

from user_service.errors import FieldError, ValidationFailed
from user_service.users.cursors import CursorCodec
from user_service.users.encrypted_columns import decode_row
from user_service.users.schemas import Email, EmailDomain, ExternalId, Username, UserRead
from user_service.users.search_query import SearchPage, SearchQuery
from user_service.users.unit_of_work import UserDatabase
from user_service.web.dependencies import get_database, get_resources
from user_service.web.fast_path import bypasses_cache
from user_service.web.problems import request_context
from user_service.web.query_types import Flag, QueryPhone, Timestamp, strict_integer
from user_service.web.responses import Headers, RawResponse, make_response
from user_service.web.routing import JsonRequest

METADATA_PARAMETER_PREFIX: Final = "metadata."
# In the style `form`, exploded, an object's keys are the names of the parameters.
METADATA_PARAMETER: Final[dict[str, Any]] = {
    "name": "metadata.<key>",
    "in": "query",
    "required": False,
    "style": "form",
    "explode": True,
    "description": "Users with this metadata value: text as it is, other types as JSON, such as `metadata.plan=pro`",
    "schema": {
        "type": "object",
        "propertyNames": {"pattern": r"^metadata\.[\s\S]"},
        "additionalProperties": {"type": "string"},
    },
    "example": {"metadata.plan": "pro"},
}
PAGE_HEADERS: Final = ((b"cache-control", b"private, no-store"),)
PageSize = Annotated[int, Field(ge=1, le=200), strict_integer]
ANY_FIELD: Final = "|".join(UserRead.model_fields)
KEY_PARAMETERS: Final = frozenset({"email", "username", "external_id"})
# They select no users.
PAGE_PARAMETERS: Final = frozenset({"cursor", "limit", "fields", "count"})


async def parse_filters(
    request: JsonRequest,
    email: Annotated[Email | None, Query(description="The e-mail address or an alias")] = None,
    email_domain: Annotated[
        EmailDomain | None, Query(description="The domain of the e-mail address or of an alias")
    ] = None,
    username: Annotated[Username | None, Query()] = None,
    phone: Annotated[QueryPhone | None, Query()] = None,
    external_id: Annotated[ExternalId | None, Query()] = None,
    status: Annotated[Literal["pending", "active", "suspended", "deleted"] | None, Query()] = None,
    q: Annotated[str | None, Query(max_length=200, description="Words of the names, all of them")] = None,
    created_after: Annotated[Timestamp | None, Query()] = None,
    created_before: Annotated[Timestamp | None, Query()] = None,
    updated_after: Annotated[Timestamp | None, Query()] = None,
    include: Annotated[Literal["deleted"] | None, Query()] = None,
) -> SearchQuery:
    """The filters of a list or an export. Raises ValidationFailed."""
    return SearchQuery(
        email=email,
        email_domain=email_domain,
        username=username,
        phone=phone,
        external_id=external_id,
        status=status,
        q=q,
        created_after=created_after,
        created_before=created_before,
        updated_after=updated_after,
        metadata=metadata_filters(request),
        include_deleted=include == "deleted",
    )


Filters = Annotated[SearchQuery, Depends(parse_filters)]


async def parse_user_query(
    request: JsonRequest,
    filters: Filters,
    sort: Annotated[Literal["created_at", "-created_at", "updated_at", "-updated_at"], Query()] = "created_at",
    limit: Annotated[PageSize, Query()] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    count: Annotated[Flag, Query(description="Add `total`, the number of users on all pages")] = False,
) -> SearchQuery:
    """The query of a list request. Raises ValidationFailed, InvalidCursor."""
    return filters._replace(
        sort=sort,
        limit=limit,
        counted=count,
        cursor=cursor_codec(request).decode(cursor, query=list_parameters(request)) if cursor is not None else None,
    )


UserQuery = Annotated[SearchQuery, Depends(parse_user_query)]


def metadata_filters(request: JsonRequest) -> dict[str, str]:
    """The `metadata.<key>=<value>` parameters. Raises ValidationFailed for one without a key."""
    filters = {
        name.removeprefix(METADATA_PARAMETER_PREFIX): value
        for name, value in request.parameters.items()
        if name.startswith(METADATA_PARAMETER_PREFIX)
    }
    if "" in filters:
        raise ValidationFailed(
            errors=[FieldError("?metadata.", "metadata", "must name a key, such as metadata.plan=pro")]
        )
    return filters


async def parse_fields(
    fields: Annotated[
        str | None,
        Query(
            max_length=400,
            description="Names of fields, separated by commas; `id` is always there",
            json_schema_extra={"pattern": f"^({ANY_FIELD})(,({ANY_FIELD}))*$"},
        ),
    ] = None,
) -> Sequence[str] | None:
    """The fields to answer with, in the order of the schema; None for all. Raises ValidationFailed."""
    if fields is None:
        return None
    names = {name.strip() for name in fields.split(",")}
    if not names.issubset(UserRead.model_fields):
        detail = f"must be names of fields, separated by commas: {', '.join(UserRead.model_fields)}"
        raise ValidationFailed(errors=[FieldError("?fields", "unknown_field", detail)])
    return [name for name in UserRead.model_fields if name in names or name == "id"]


Fields = Annotated[Sequence[str] | None, Depends(parse_fields)]


@lru_cache(maxsize=4)
def make_codec(key: bytes) -> CursorCodec:
    return CursorCodec(key)


def cursor_codec(request: Request) -> CursorCodec:
    return make_codec(get_resources(request).keys.cursor)


def is_fresh(request: Request) -> bool:
    """Whether the request wants what the database has, and nothing from a cache."""
    return bypasses_cache(request_context(request).headers)


def names_one_key(request: JsonRequest) -> bool:
    """Whether a list request finds by one unique key, without a filter, a cursor or a choice of fields."""
    names = request.parameters.keys() - {"limit", "sort"}
    return len(names) == 1 and names <= KEY_PARAMETERS


def list_parameters(request: JsonRequest) -> dict[str, str]:
    """The parameters that the pages of one list have in common; a cursor is valid for them only."""
    return {name: value for name, value in request.parameters.items() if name not in PAGE_PARAMETERS}


async def find_page(request: JsonRequest, query: SearchQuery) -> RawResponse:
    """The page of a query that names one key: concurrent ones share a round trip. Raises DatabaseUnavailable."""
    ((kind, key, _),) = get_database(request).named(query)
    entry = await get_resources(request).reader.find_one(kind, key)
    request_context(request).rows = 0 if entry is None else 1
    body = b'{"items":[%b],"next_cursor":null}' % (b"" if entry is None else entry.body)
    return make_response(200, body, PAGE_HEADERS)


async def read_page(
    request: JsonRequest, database: UserDatabase, query: SearchQuery, fields: Sequence[str] | None
) -> RawResponse:
    """The page of a query with these fields, None for all. Raises DatabaseUnavailable, Contended, DecryptionError."""
    if fields is None and not is_fresh(request):
        return page_response(request, await database.pages.read(query))
    page = await database.page(query)
    users = [decode_row(row, database.cipher).to_json(fields) for row in page.users]
    return page_response(request, page._replace(users=users))


def page_response(request: JsonRequest, page: SearchPage[bytes]) -> RawResponse:
    request_context(request).rows = len(page.users)
    next_cursor = (
        cursor_codec(request).encode(page.next, query=list_parameters(request)) if page.next is not None else None
    )
    total = b"" if page.total is None else b',"total":%d' % page.total
    body = b'{"items":[' + b",".join(page.users) + b'],"next_cursor":' + orjson.dumps(next_cursor) + total + b"}"
    return make_response(200, body, page_headers(request, next_cursor))


def page_headers(request: JsonRequest, next_cursor: str | None) -> Headers:
    """`Link` (RFC 8288) leads to the next page, if there is one: another query of the same path."""
    if next_cursor is None:
        return PAGE_HEADERS
    others = "".join(
        f"{quote_parameter(name)}={quote_parameter(value)}&"
        for name, value in request.parameters.items()
        if name != "cursor"
    )
    return (*PAGE_HEADERS, (b"link", f'<?{others}cursor={next_cursor}>; rel="next"'.encode()))


def quote_parameter(text: str) -> str:
    """A name or a value in a query."""
    return text if text.isalnum() and text.isascii() else quote_plus(text)
