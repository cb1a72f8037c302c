"""What endpoints ask for, each named once. All of them are coroutines: what is not, FastAPI runs on another thread."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from pydantic import BeforeValidator

from user_service.bootstrap import Resources, Services
from user_service.errors import Forbidden, InvalidHeader, Unauthenticated
from user_service.idempotency.requests import IdempotentRequest
from user_service.security.authentication import Principal
from user_service.users.model import User
from user_service.users.search import UserSearch
from user_service.users.service import ANY_VERSION, NO_VERSION, UserService
from user_service.users.unit_of_work import Storage
from user_service.users.validation import check_id
from user_service.values.deferred import Deferred
from user_service.web.bulkhead import Bulkhead
from user_service.web.fast_path import FastPath
from user_service.web.health import Health
from user_service.web.idempotency import IdempotentTransaction
from user_service.web.problems import request_context
from user_service.web.query_types import Flag

if TYPE_CHECKING:
    from user_service.web.prometheus import Exposition

VERSION_TAG: Final = re.compile(r'"([1-9][0-9]{0,8})"', re.ASCII)
ENTITY_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')

ENTITY_TAG_SCHEMA: Final[dict[str, Any]] = {"pattern": r'^(?:\*|(?:W/)?"[!#-~]*")?$', "examples": ['"3"']}


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the routes work with."""

    resources: Resources
    services: Services
    fast_path: FastPath
    health: Health
    bulkhead: Bulkhead
    exposition: "Deferred[Exposition]"


def get_parts(request: Request) -> ApiParts:
    parts: ApiParts = request.app.state.parts
    return parts


def resources_of(request: Request) -> Resources:
    return get_parts(request).resources


def storage_of(request: Request) -> Storage:
    return get_parts(request).services.storage


def principal_of(request: Request) -> Principal:
    """Who asks. Raises Unauthenticated where the path let nobody in particular through."""
    principal = request_context(request).principal
    if principal is None:
        raise Unauthenticated
    return principal


def requires(scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only principals with a scope pass."""

    async def check(request: Request) -> None:
        principal_of(request).require(scope)

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
    url = request.url
    parts = [request.method, url.path, url.query, request.headers.get("if-match", "")]
    keys, index, principal = resources_of(request).keys, storage_of(request).index, principal_of(request).name
    return IdempotentRequest(keys, index, principal=principal, key=key, request=parts, body=await request.body())


IdempotencyKey = Annotated[IdempotentRequest | None, Depends(idempotent_request)]


async def may_delete(request: Request, purge: Annotated[Flag, Query()] = False) -> None:
    """Raises Forbidden. Asked before anything else, so that a replay needs the scope too."""
    principal_of(request).require("users:purge" if purge else "users:delete")


async def user_service(request: Request, hook: IdempotencyKey) -> AsyncIterator[UserService]:
    resources_of(request).require_database()
    context = request_context(request)
    async with storage_of(request).unit_of_work(context.origin) as service:
        if hook is not None:
            transaction = IdempotentTransaction(service, hook)
            await transaction.begin()
            request.state.idempotent_transaction = transaction
        yield service
    context.rows = len(service.changed_versions)


Users = Annotated[UserService, Depends(user_service, scope="function")]


async def own_user(request: Request, users: Users) -> User:
    """The user of the token. Raises Forbidden for who has no token of a user's issuer, UserNotFound."""
    subject = principal_of(request).subject
    if subject is None:
        raise Forbidden("This is for tokens: an API key is nobody's own.")
    return await users.get_by_subject(subject, subject_type=resources_of(request).settings.jwt_subject)


async def user_search(request: Request) -> AsyncIterator[UserSearch]:
    resources_of(request).require_database()
    async with storage_of(request).reading() as search:
        yield search


async def version_condition(
    if_match: Annotated[str | None, Header(alias="If-Match", json_schema_extra=ENTITY_TAG_SCHEMA)] = None,
) -> int | None:
    """The version that a write asks for, None for no condition. Raises InvalidHeader."""
    return None if if_match is None else version_of(if_match)


def version_of(if_match: str) -> int:
    """The version that `If-Match` names; strong comparison (RFC 9110, 13.1.1). Raises InvalidHeader."""
    text = if_match.strip()
    if text == "*":
        return ANY_VERSION
    if tag := VERSION_TAG.fullmatch(text):
        return int(tag[1])
    if not text or ENTITY_TAG.fullmatch(text):
        return NO_VERSION
    raise InvalidHeader('If-Match must be one ETag of this user, as "3", or *.')


UserId = Annotated[UUID, BeforeValidator(check_id)]
Search = Annotated[UserSearch, Depends(user_search, scope="function")]
Own = Annotated[User, Depends(own_user, scope="function")]
IfMatch = Annotated[int | None, Depends(version_condition)]
