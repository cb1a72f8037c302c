"""Dependencies of the endpoints. All are coroutines: FastAPI would run other functions on a worker thread."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Query, Request
from pydantic import BeforeValidator

from user_service.bootstrap import Resources, Services
from user_service.errors import Unauthenticated
from user_service.idempotency.requests import IdempotentRequest
from user_service.security.principals import Principal
from user_service.users.unit_of_work import UserDatabase
from user_service.users.validation import check_id
from user_service.users.version_conditions import UNVERSIONED, Condition
from user_service.values.deferred import Deferred
from user_service.web.bulkhead import Bulkhead
from user_service.web.fast_path import FastPath
from user_service.web.health import Health
from user_service.web.idempotency import UserChanges
from user_service.web.preconditions import IF_MATCH, IF_NONE_MATCH, TAG_LIST_PATTERN, read_condition
from user_service.web.problems import request_context
from user_service.web.query_types import Flag

if TYPE_CHECKING:
    from user_service.scim.application import ScimApplication
    from user_service.web.prometheus import Exposition

TAG_LIST_SCHEMA: Final[dict[str, Any]] = {"pattern": TAG_LIST_PATTERN, "examples": ['"3"']}


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the routes work with."""

    resources: Resources
    services: Services
    fast_path: FastPath
    health: Health
    bulkhead: Bulkhead
    exposition: "Deferred[Exposition]"
    scim: "Deferred[ScimApplication]"


class ServiceApi(FastAPI):
    """FastAPI with what its routes work with: its own `state` takes ten times as long to read."""

    parts: ApiParts


def get_parts(request: Request) -> ApiParts:
    parts: ApiParts = request.scope["app"].parts
    return parts


def get_resources(request: Request) -> Resources:
    return get_parts(request).resources


def get_database(request: Request) -> UserDatabase:
    return get_parts(request).services.database


def get_principal(request: Request) -> Principal:
    """The caller, which app.py has authenticated. Raises Unauthenticated on paths that need no credentials."""
    principal = request_context(request).principal
    if principal is None:
        raise Unauthenticated
    return principal


def requires(scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that raises Forbidden for principals without the scope."""

    async def check(request: Request) -> None:
        get_principal(request).require(scope)

    return check


async def idempotent_request(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="For 24 hours, the same request with this key gets the first response and has no other effect",
        ),
    ] = None,
) -> IdempotentRequest | None:
    if key is None:
        return None
    scope, headers = request.scope, request_context(request).headers
    parts = [scope["method"], scope["path"], scope["query_string"].decode("latin-1")]
    parts.append(headers.get(IF_MATCH, b"").decode("latin-1"))
    if IF_NONE_MATCH in headers:
        parts.append(headers[IF_NONE_MATCH].decode("latin-1"))
    keys, index, principal = get_resources(request).keys, get_database(request).index, get_principal(request).name
    return IdempotentRequest(keys, index, principal=principal, key=key, request=parts, body=await request.body())


IdempotencyKey = Annotated[IdempotentRequest | None, Depends(idempotent_request)]


async def authorise_delete(request: Request, purge: Annotated[Flag, Query()] = False) -> bool:
    """Whether to purge. Raises Forbidden; comes before other dependencies, so that a replay needs the scope too."""
    get_principal(request).require("users:purge" if purge else "users:delete")
    return purge


Purge = Annotated[bool, Depends(authorise_delete)]


async def user_changes(request: Request, key: IdempotencyKey) -> UserChanges:
    get_resources(request).require_database()
    return UserChanges(get_database(request), request_context(request), key)


Changes = Annotated[UserChanges, Depends(user_changes)]


async def get_lists(request: Request) -> UserDatabase:
    get_resources(request).require_database()
    return get_database(request)


async def read_change_condition(
    request: Request,
    if_match: Annotated[str | None, Header(alias="If-Match", json_schema_extra=TAG_LIST_SCHEMA)] = None,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match", json_schema_extra=TAG_LIST_SCHEMA)] = None,
) -> Condition | None:
    """The condition of a change of one user, which the service checks. Raises InvalidHeader."""
    return read_condition(request_context(request).headers)


def check_conditions(version: int | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that checks the conditions of a request about no single user; `version` is as for `Condition.check`.

    It raises VersionMismatch, InvalidHeader.
    """

    async def check(request: Request) -> None:
        condition = read_condition(request_context(request).headers)
        if condition is not None:
            condition.check(version)

    return check


UserId = Annotated[UUID, BeforeValidator(check_id)]
Lists = Annotated[UserDatabase, Depends(get_lists)]
ChangeCondition = Annotated[Condition | None, Depends(read_change_condition)]
# For addresses at which nothing can be read, such as those of batches.
conditions_on_nothing: Final = Depends(check_conditions(None))
# For what has no ETag, such as the list of users.
conditions_without_etag: Final = Depends(check_conditions(UNVERSIONED))
