"""`/api/v1/users`: one user, and the list."""

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Path, Query, Request

from user_service.errors import Forbidden
from user_service.users.model import User
from user_service.users.schemas import ExternalId, OwnUpdate, UserCreate, UserPage, UserRead, UserUpdate, UserUpsert
from user_service.users.service import Outcome, UserService, single_user
from user_service.web.dependencies import (
    TAG_LIST_SCHEMA,
    ChangeCondition,
    Changes,
    Lists,
    Purge,
    UserId,
    conditions_without_etag,
    get_parts,
    get_principal,
    get_resources,
    requires,
)
from user_service.web.openapi import COMMON_PROBLEMS, problems
from user_service.web.pagination import (
    METADATA_PARAMETER,
    METADATA_PARAMETER_PREFIX,
    Fields,
    UserQuery,
    find_page,
    is_fresh,
    names_one_key,
    read_page,
)
from user_service.web.preconditions import is_unchanged
from user_service.web.problems import request_context
from user_service.web.responses import RawResponse, empty_response, make_response
from user_service.web.routing import MERGE_PATCH, OPEN_QUERY, JsonRequest, make_router


async def one(outcomes: Awaitable[Sequence[Outcome]]) -> User:
    """The user of a set of one. Raises the error of its outcome."""
    return single_user(await outcomes)


router = make_router("users", prefix="/api/v1/users", responses=COMMON_PROBLEMS)
reading = [Depends(requires("users:read"))]
writing = [Depends(requires("users:write"))]
WRITE_PROBLEMS: Final = problems(404, 409, 410, 412)


def patch_body(schema: str) -> dict[str, Any]:
    """The OpenAPI request body of a merge patch."""
    return {"requestBody": {"content": {MERGE_PATCH: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}}


def validators(user: User) -> list[tuple[bytes, bytes]]:
    return [(b"etag", b'"%d"' % user.version), (b"cache-control", b"private, no-cache")]


def user_response(user: User) -> RawResponse:
    return make_response(200, user.to_json(), validators(user))


def created_response(user: User) -> RawResponse:
    location = (b"location", f"/api/v1/users/{user.id}".encode())
    return make_response(201, user.to_json(), [*validators(user), location])


@router.post(
    "",
    status_code=201,
    response_model=UserRead,
    dependencies=[*writing, conditions_without_etag],
    responses=problems(409, 410, 412),
)
async def create_user(body: UserCreate, changes: Changes) -> RawResponse:
    """Create a user."""
    return await changes.run(lambda users: one(users.create([body])), created_response)


@router.get(
    "",
    response_model=UserPage,
    dependencies=reading,
    openapi_extra={OPEN_QUERY: METADATA_PARAMETER_PREFIX, "parameters": [METADATA_PARAMETER]},
)
async def list_users(request: JsonRequest, query: UserQuery, fields: Fields, lists: Lists) -> RawResponse:
    """List and find users, page by page. Further parameters: `metadata.<key>=<value>`."""
    if names_one_key(request) and not is_fresh(request):
        return await find_page(request, query)
    return await read_page(request, lists, query, fields)


async def find_own_user(request: Request, users: UserService) -> User:
    """The user of the token. Raises UserNotFound, and Forbidden without a token of a user's issuer."""
    subject = get_principal(request).subject
    if subject is None:
        raise Forbidden("This endpoint needs a user's token; an API key has no user.")
    return await users.get_by_subject(subject, subject_type=get_resources(request).settings.jwt_subject)


@router.get("/me", response_model=UserRead, responses=WRITE_PROBLEMS)
async def read_own_user(request: Request, changes: Changes) -> RawResponse:
    """Read the user of the token. Needs no scope."""

    def render(own: User) -> RawResponse:
        if is_unchanged(request_context(request).headers, own.version):
            return RawResponse(304, validators(own), b"")
        return user_response(own)

    return await changes.run(lambda users: find_own_user(request, users), render)


@router.patch("/me", response_model=UserRead, responses=WRITE_PROBLEMS, openapi_extra=patch_body("OwnUpdate"))
async def update_own_user(
    request: Request, body: OwnUpdate, changes: Changes, condition: ChangeCondition
) -> RawResponse:
    """Change the user of the token by a JSON merge patch (RFC 7396). Needs no scope."""

    async def update(users: UserService) -> User:
        return await users.update_own(await find_own_user(request, users), body, condition=condition)

    return await changes.run(update, user_response)


@router.get(
    "/{user_id:user}",
    response_model=UserRead,
    dependencies=reading,
    responses={304: {"description": "`If-None-Match` names the version"}, **problems(404, 412)},
)
async def read_user(
    request: Request,
    user_id: UserId,
    include: Annotated[Literal["deleted"] | None, Query()] = None,
    if_match: Annotated[str | None, Header(alias="If-Match", json_schema_extra=TAG_LIST_SCHEMA)] = None,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match")] = None,
    cache_control: Annotated[str | None, Header(alias="Cache-Control")] = None,
) -> RawResponse:
    """Read a user. `Cache-Control: no-cache` reads from the database."""
    fast_path = get_parts(request).fast_path
    return await fast_path.read_user(user_id, request.scope["query_string"], request_context(request).headers)


@router.patch(
    "/{user_id:user}",
    response_model=UserRead,
    dependencies=writing,
    responses=WRITE_PROBLEMS,
    openapi_extra=patch_body("UserUpdate"),
)
async def update_user(user_id: UserId, body: UserUpdate, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Change a user by a JSON merge patch (RFC 7396). A patch that changes nothing leaves the version."""
    return await changes.run(lambda users: one(users.update([(user_id, condition, body)])), user_response)


@router.put(
    "/by-external-id/{external_id:text}",
    response_model=UserRead,
    dependencies=writing,
    responses={201: {"model": UserRead, "description": "The user was created"}, **problems(409, 410, 412)},
)
async def upsert_user(
    external_id: Annotated[ExternalId, Path()], body: UserUpsert, changes: Changes, condition: ChangeCondition
) -> RawResponse:
    """Create the user with an external id, or change the fields in the body."""

    def render(result: tuple[User, bool]) -> RawResponse:
        user, created = result
        return created_response(user) if created else user_response(user)

    return await changes.run(lambda users: users.upsert(external_id, body, condition=condition), render)


@router.delete("/{user_id:user}", status_code=204, responses=WRITE_PROBLEMS)
async def delete_user(
    request: Request, purge: Purge, user_id: UserId, changes: Changes, condition: ChangeCondition
) -> RawResponse:
    """Delete a user, which can be restored. `purge=true` removes it permanently and needs `users:purge`."""
    if purge:
        names = get_resources(request).actor_names
        return await changes.run_in_transaction(
            lambda users: users.purge(user_id, condition=condition, actor_names=names), empty_response
        )
    return await changes.run(lambda users: one(users.delete([(user_id, condition)])), empty_response)


@router.post("/{user_id:user}/restore", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def restore_user(user_id: UserId, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Restore a deleted user with its previous status."""
    return await changes.run(lambda users: one(users.restore([(user_id, condition)])), user_response)


@router.post("/{user_id:user}/suspend", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def suspend_user(user_id: UserId, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Suspend a pending or active user."""
    return await changes.run(lambda users: users.set_status(user_id, "suspended", condition=condition), user_response)


@router.post("/{user_id:user}/activate", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def activate_user(user_id: UserId, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Activate a pending or suspended user."""
    return await changes.run(lambda users: users.set_status(user_id, "active", condition=condition), user_response)


@router.post("/{user_id:user}/login", status_code=204, dependencies=writing, responses=WRITE_PROBLEMS)
async def record_login(user_id: UserId, changes: Changes, condition: ChangeCondition) -> RawResponse:
    """Set `last_login_at` to now."""
    return await changes.run(lambda users: users.record_login(user_id, condition=condition), empty_response)
