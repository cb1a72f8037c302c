"""`/api/v1/users`: one user, and the list."""

from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Path, Query, Request, Response

from user_service.users.model import User
from user_service.users.schemas import ExternalId, OwnUpdate, UserCreate, UserPage, UserRead, UserUpdate, UserUpsert
from user_service.users.service import single_user
from user_service.web.dependencies import (
    TAG_LIST_SCHEMA,
    ChangeCondition,
    Lists,
    Own,
    Purge,
    UserId,
    Users,
    conditions_without_etag,
    get_parts,
    get_resources,
    requires,
)
from user_service.web.openapi import COMMON_PROBLEMS, problems
from user_service.web.pagination import METADATA_PARAMETER, METADATA_PARAMETER_PREFIX, Fields, UserQuery, page_response
from user_service.web.preconditions import is_unchanged
from user_service.web.problems import request_context, to_response
from user_service.web.routing import MERGE_PATCH, OPEN_QUERY, make_router

router = make_router("users", prefix="/api/v1/users", responses=COMMON_PROBLEMS)
reading = [Depends(requires("users:read"))]
writing = [Depends(requires("users:write"))]
WRITE_PROBLEMS: Final = problems(404, 409, 410, 412)


def patch_body(schema: str) -> dict[str, Any]:
    """The OpenAPI request body of a merge patch."""
    return {"requestBody": {"content": {MERGE_PATCH: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}}


def user_response(user: User, *, status: int = 200) -> Response:
    headers = {"ETag": f'"{user.version}"', "Cache-Control": "private, no-cache"}
    if status == 201:
        headers["Location"] = f"/api/v1/users/{user.id}"
    return Response(user.to_json(), status, headers, "application/json")


@router.post(
    "",
    status_code=201,
    response_model=UserRead,
    dependencies=[*writing, conditions_without_etag],
    responses=problems(409, 410, 412),
)
async def create_user(body: UserCreate, users: Users) -> Response:
    """Create a user."""
    return user_response(single_user(await users.create([body])), status=201)


@router.get(
    "",
    response_model=UserPage,
    dependencies=reading,
    openapi_extra={OPEN_QUERY: METADATA_PARAMETER_PREFIX, "parameters": [METADATA_PARAMETER]},
)
async def list_users(request: Request, query: UserQuery, fields: Fields, lists: Lists) -> Response:
    """List and find users, page by page. Further parameters: `metadata.<key>=<value>`."""
    return page_response(request, await lists.page(query), fields)


@router.get("/me", response_model=UserRead, responses=WRITE_PROBLEMS)
async def read_own_user(request: Request, own: Own) -> Response:
    """Read the user of the token. Needs no scope."""
    response = user_response(own)
    if is_unchanged(request_context(request).headers, own.version):
        return Response(None, 304, {name: response.headers[name] for name in ("ETag", "Cache-Control")})
    return response


@router.patch("/me", response_model=UserRead, responses=WRITE_PROBLEMS, openapi_extra=patch_body("OwnUpdate"))
async def update_own_user(body: OwnUpdate, own: Own, users: Users, condition: ChangeCondition) -> Response:
    """Change the user of the token by a JSON merge patch (RFC 7396). Needs no scope."""
    return user_response(await users.update_own(own, body, condition=condition))


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
) -> Response:
    """Read a user. `Cache-Control: no-cache` reads from the database."""
    fast_path = get_parts(request).fast_path
    return to_response(
        await fast_path.read_user(user_id, request.scope["query_string"], request_context(request).headers)
    )


@router.patch(
    "/{user_id:user}",
    response_model=UserRead,
    dependencies=writing,
    responses=WRITE_PROBLEMS,
    openapi_extra=patch_body("UserUpdate"),
)
async def update_user(user_id: UserId, body: UserUpdate, users: Users, condition: ChangeCondition) -> Response:
    """Change a user by a JSON merge patch (RFC 7396). A patch that changes nothing leaves the version."""
    return user_response(single_user(await users.update([(user_id, condition, body)])))


@router.put(
    "/by-external-id/{external_id:text}",
    response_model=UserRead,
    dependencies=writing,
    responses={201: {"model": UserRead, "description": "The user was created"}, **problems(409, 410, 412)},
)
async def upsert_user(
    external_id: Annotated[ExternalId, Path()], body: UserUpsert, users: Users, condition: ChangeCondition
) -> Response:
    """Create the user with an external id, or change the fields in the body."""
    user, created = await users.upsert(external_id, body, condition=condition)
    return user_response(user, status=201 if created else 200)


@router.delete("/{user_id:user}", status_code=204, responses=WRITE_PROBLEMS)
async def delete_user(
    request: Request, purge: Purge, user_id: UserId, users: Users, condition: ChangeCondition
) -> Response:
    """Delete a user, which can be restored. `purge=true` removes it permanently and needs `users:purge`."""
    if purge:
        await users.purge(user_id, condition=condition, actor_names=get_resources(request).actor_names)
    else:
        single_user(await users.delete([(user_id, condition)]))
    return Response(status_code=204)


@router.post("/{user_id:user}/restore", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def restore_user(user_id: UserId, users: Users, condition: ChangeCondition) -> Response:
    """Restore a deleted user with its previous status."""
    return user_response(single_user(await users.restore([(user_id, condition)])))


@router.post("/{user_id:user}/suspend", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def suspend_user(user_id: UserId, users: Users, condition: ChangeCondition) -> Response:
    """Suspend a pending or active user."""
    return user_response(await users.set_status(user_id, "suspended", condition=condition))


@router.post("/{user_id:user}/activate", response_model=UserRead, dependencies=writing, responses=WRITE_PROBLEMS)
async def activate_user(user_id: UserId, users: Users, condition: ChangeCondition) -> Response:
    """Activate a pending or suspended user."""
    return user_response(await users.set_status(user_id, "active", condition=condition))


@router.post("/{user_id:user}/login", status_code=204, dependencies=writing, responses=WRITE_PROBLEMS)
async def record_login(user_id: UserId, users: Users, condition: ChangeCondition) -> Response:
    """Set `last_login_at` to now."""
    await users.record_login(user_id, condition=condition)
    return Response(status_code=204)
