"""`/api/v1/users/imports` and `/api/v1/users/export`: any number of users, as streams."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from user_service.errors import UnsupportedMediaType
from user_service.users.imports.parsers import Record, make_parser
from user_service.users.imports.runner import Import, ImportRunner
from user_service.web.dependencies import (
    check_single_key,
    conditions_without_etag,
    get_database,
    get_parts,
    get_resources,
    requires,
)
from user_service.web.openapi import COMMON_PROBLEMS, Responses, problems
from user_service.web.problems import request_context
from user_service.web.routing import StrictRoute, make_router

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
FORMATS_BY_MEDIA_TYPE: Final = {
    NDJSON: "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    CSV: "csv",
}
LATEST: Final = 50


class StreamRoute(StrictRoute):
    """A body of any length, which is streamed."""

    max_body_bytes = 2**63


class ImportRead(BaseModel):
    """An import. `position` is the number of records processed."""

    id: UUID
    state: Literal["running", "interrupted", "failed", "completed"]
    format: Literal["ndjson", "csv"]
    on_conflict: Literal["fail", "skip", "update"]
    position: int
    created: int
    updated: int
    skipped: int
    failed: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class ImportList(BaseModel):
    items: list[ImportRead]


IMPORT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {NDJSON: {"schema": {"type": "string"}}, CSV: {"schema": {"type": "string"}}},
    }
}
NDJSON_RESPONSE: Final[Responses] = {200: {"content": {NDJSON: {"schema": {"type": "string"}}}}}


async def lift_deadline(request: Request) -> None:
    """A stream takes as long as its sender and its reader need."""
    request_context(request).lift_deadline()


async def get_import_runner(request: Request) -> ImportRunner:
    get_resources(request).require_database()
    return get_parts(request).services.imports


router = make_router(
    "imports",
    prefix="/api/v1/users",
    route_class=StreamRoute,
    dependencies=[Depends(lift_deadline)],
    responses=COMMON_PROBLEMS,
)
reading = [Depends(requires("users:read"))]
Imports = Annotated[ImportRunner, Depends(get_import_runner)]
ImportKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same file with this key continues the import where it was interrupted",
    ),
]


@router.post(
    "/imports",
    status_code=202,
    response_model=ImportRead,
    dependencies=[Depends(requires("users:write")), Depends(check_single_key), conditions_without_etag],
    responses=problems(409, 412),
    openapi_extra=IMPORT_BODY,
)
async def import_users(
    request: Request,
    imports: Imports,
    key: ImportKey = None,
    on_conflict: Annotated[Literal["fail", "skip", "update"], Query()] = "fail",
) -> Response:
    """Create users from NDJSON or CSV of any length. The response follows when all records are processed.

    An interrupted import continues when the same file is sent with the same `Idempotency-Key`.
    """
    file_format = parse_format(request)
    origin = request_context(request).origin
    started = await imports.begin(origin, file_format=file_format, on_conflict=on_conflict, key=key)
    with suppress(ClientDisconnect):
        await imports.run(started, parse_records(request, file_format), origin)
    return import_response(await imports.find(started["id"]), status=202)


@router.get("/imports", response_model=ImportList, dependencies=reading)
async def list_imports(imports: Imports) -> ImportList:
    """The latest imports, the newest first."""
    return ImportList(items=[ImportRead.model_validate(dict(row)) for row in await imports.latest(LATEST)])


@router.get("/imports/{import_id}", response_model=ImportRead, dependencies=reading, responses=problems(404))
async def read_import(import_id: UUID, imports: Imports) -> Response:
    """The state of an import. It is `interrupted` when it has not advanced for a minute."""
    return import_response(await imports.find(import_id))


@router.get(
    "/imports/{import_id}/errors",
    response_class=StreamingResponse,
    responses={**NDJSON_RESPONSE, **problems(404)},
    dependencies=reading,
)
async def read_import_failures(import_id: UUID, imports: Imports) -> Response:
    """The records that failed, as NDJSON: the number of each, from 1, and the error."""
    await imports.find(import_id)
    return StreamingResponse(imports.failures(import_id), media_type=NDJSON)


@router.get("/export", response_class=StreamingResponse, responses=NDJSON_RESPONSE, dependencies=reading)
async def export_users(request: Request, include: Annotated[Literal["deleted"] | None, Query()] = None) -> Response:
    """All users as NDJSON, in order of creation, as of the time of the request."""
    get_resources(request).require_database()
    return StreamingResponse(get_database(request).export(deleted=include == "deleted"), media_type=NDJSON)


def parse_format(request: Request) -> str:
    """Raises UnsupportedMediaType."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in FORMATS_BY_MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the users with Content-Type: {NDJSON} or {CSV}.")
    return FORMATS_BY_MEDIA_TYPE[media_type]


def import_response(found: Import, *, status: int = 200) -> Response:
    content = ImportRead.model_validate(dict(found)).model_dump_json()
    headers = {"Cache-Control": "no-store", "Location": f"/api/v1/users/imports/{found['id']}"}
    return Response(content, status, headers, "application/json")


async def parse_records(request: Request, file_format: str) -> AsyncIterator[Sequence[Record]]:
    parser = make_parser(file_format)
    async for piece in request.stream():
        yield list(parser.feed(piece))
    yield list(parser.end())
