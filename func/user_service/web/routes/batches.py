"""`/api/v1/users/batch`: many users at once."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from user_service.users.batch.bodies import Batch, CreateBatch, FindBatch, UpdateBatch, UserBatch
from user_service.users.batch.operations import OPERATIONS
from user_service.users.batch.response_schemas import BatchRead, BatchRefused, FoundRead
from user_service.web.dependencies import IdempotencyKey, conditions_on_nothing, get_parts, get_resources, requires
from user_service.web.fast_path import bypasses_cache
from user_service.web.idempotency import REPLAYED_HEADER
from user_service.web.openapi import COMMON_PROBLEMS, Responses, describe, problems
from user_service.web.problems import request_context
from user_service.web.responses import RawResponse, make_response
from user_service.web.routing import LARGE_BODY_BYTES, LargeRoute, StrictRoute, make_router

PREFIX: Final = "/api/v1/users/batch"
NOT_STORED: Final = ((b"cache-control", b"no-store"),)
PRIVATE: Final = ((b"cache-control", b"private, no-store"),)


class FindRoute(StrictRoute):
    """A find takes milliseconds, so it does not wait in the bulkhead behind writes."""

    max_body_bytes = LARGE_BODY_BYTES


RunBatch = Callable[[str, Batch], Awaitable[RawResponse]]


async def batch_run(request: Request, hook: IdempotencyKey) -> RunBatch:
    """A function that runs a batch of this request, and only once with an Idempotency-Key."""
    get_resources(request).require_database()

    async def run(operation: str, body: Batch) -> RawResponse:
        context = request_context(request)
        await context.charge(len(body.items))
        outcome = await get_parts(request).services.batches.run(operation, body, context.origin, hook=hook)
        context.rows = len(outcome.items)
        headers = (*NOT_STORED, REPLAYED_HEADER) if outcome.replayed else NOT_STORED
        return make_response(outcome.status, outcome.body, headers, outcome.media_type.encode())

    return run


Run = Annotated[RunBatch, Depends(batch_run)]
BATCH_RESPONSES: Final[Responses] = problems(412) | {
    207: {"model": BatchRead, "description": "Some items failed"},
    409: problems(409)[409]
    | {"model": BatchRefused, "description": f"An atomic batch was not applied; or: {describe(409)}"},
}
router = make_router("batches", prefix=PREFIX, route_class=LargeRoute, responses=COMMON_PROBLEMS)
find_router = make_router("batches", prefix=PREFIX, route_class=FindRoute, responses=COMMON_PROBLEMS)


def scoped(operation: str) -> list[Any]:
    return [Depends(requires(OPERATIONS[operation].scope)), conditions_on_nothing]


@router.post("/create", response_model=BatchRead, responses=BATCH_RESPONSES, dependencies=scoped("create"))
async def create_users(body: CreateBatch, run: Run) -> RawResponse:
    """Create up to 1,000 users."""
    return await run("create", body)


@router.post("/update", response_model=BatchRead, responses=BATCH_RESPONSES, dependencies=scoped("update"))
async def update_users(body: UpdateBatch, run: Run) -> RawResponse:
    """Change up to 1,000 users, each by a merge patch."""
    return await run("update", body)


@router.post("/delete", response_model=BatchRead, responses=BATCH_RESPONSES, dependencies=scoped("delete"))
async def delete_users(body: UserBatch, run: Run) -> RawResponse:
    """Delete up to 1,000 users, which can be restored."""
    return await run("delete", body)


@router.post("/restore", response_model=BatchRead, responses=BATCH_RESPONSES, dependencies=scoped("restore"))
async def restore_users(body: UserBatch, run: Run) -> RawResponse:
    """Restore up to 1,000 deleted users."""
    return await run("restore", body)


@find_router.post("/find", response_model=FoundRead, responses=problems(412), dependencies=scoped("find"))
async def find_users(request: Request, body: FindBatch) -> RawResponse:
    """Read users by up to 1,000 keys. `Cache-Control: no-cache` reads from the database."""
    get_resources(request).require_database()
    context = request_context(request)
    await context.charge(body.size)
    outcome = await get_parts(request).services.batches.find(body, fresh=bypasses_cache(context.headers))
    return make_response(200, outcome.body, PRIVATE)
