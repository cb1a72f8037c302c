"""`/api/v1/users/imports` and `/api/v1/users/export`: any number of users, as streams."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from user_service.errors import ServiceError, ShuttingDown
from user_service.observability.logging import log
from user_service.users.exports import EXPORT_FORMATS
from user_service.users.imports.parsers import RecordParser, make_parser
from user_service.users.imports.records import NumberedRecord
from user_service.users.imports.runner import Import, ImportOptions, ImportRunner
from user_service.values.media_types import USER_FILES
from user_service.web.dependencies import (
    conditions_without_etag,
    get_database,
    get_parts,
    get_resources,
    requires,
)
from user_service.web.idempotency import REPLAYED_HEADER
from user_service.web.openapi import COMMON_PROBLEMS, PROBLEM, PROBLEM_JSON, Responses, describe, problems
from user_service.web.pagination import METADATA_PARAMETER, METADATA_PARAMETER_PREFIX, Fields, Filters
from user_service.web.problems import request_context, to_response
from user_service.web.query_types import Flag
from user_service.web.responses import Headers, make_response, render_problem
from user_service.web.routing import OPEN_QUERY, StrictRoute, check_content_type, make_router
from user_service.web.streams import ClosingResponse

NDJSON: Final = USER_FILES["ndjson"]
CSV: Final = USER_FILES["csv"]
FORMATS_BY_MEDIA_TYPE: Final = {
    NDJSON: "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    CSV: "csv",
}
LATEST: Final = 50
# Parsing this much takes some milliseconds.
PARSED_AT_ONCE_BYTES: Final = 64 * 1024


class StreamRoute(StrictRoute):
    """A body of any length, which is streamed."""

    max_body_bytes = 2**63


class ImportRead(BaseModel):
    """An import. `position` is the number of records processed."""

    id: UUID
    state: Literal["running", "interrupted", "failed", "completed"]
    format: Literal["ndjson", "csv"]
    on_conflict: Literal["fail", "skip", "update"]
    keep_ids: bool
    dry_run: bool = Field(description="Whether the import changes no user; the counts are what it would do")
    position: int
    line: int = Field(description="The line in which the last processed record begins, from 1; 0 before the first")
    created: int
    updated: int
    skipped: int
    failed: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class ImportList(BaseModel):
    items: list[ImportRead]


NDJSON_CONTENT: Final[dict[str, Any]] = {NDJSON: {"schema": {"type": "string", "format": "binary"}}}
FILE_CONTENT: Final[dict[str, Any]] = {**NDJSON_CONTENT, CSV: NDJSON_CONTENT[NDJSON]}
IMPORT_BODY: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": FILE_CONTENT}}
STOPPED: Final[dict[str, Any]] = {
    "title": "ImportStopped",
    "description": "The problem that stopped an import, and the import as it was then; at least its id.",
    "type": "object",
    "required": [*PROBLEM["required"], "import"],
    "additionalProperties": False,
    "properties": {
        **PROBLEM["properties"],
        "import": {
            "anyOf": [
                {"$ref": "#/components/schemas/ImportRead"},
                {
                    "type": "object",
                    "required": ["id"],
                    "additionalProperties": False,
                    "properties": {"id": {"type": "string", "format": "uuid"}},
                },
            ]
        },
    },
}
# Whatever stops an import answers so; what refuses it before it begins is a plain problem.
STOPPED_PROBLEMS: Final[Responses] = {
    status: {
        "description": describe(status),
        "content": {PROBLEM_JSON: {"schema": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, STOPPED]}}},
    }
    for status in (409, 422, 503)
}
NDJSON_RESPONSE: Final[Responses] = {200: {"content": NDJSON_CONTENT}}
EXPORT_RESPONSE: Final[Responses] = {200: {"content": FILE_CONTENT}}


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
    dependencies=[Depends(requires("users:write")), conditions_without_etag],
    responses={**problems(412), **STOPPED_PROBLEMS},
    openapi_extra=IMPORT_BODY,
)
async def import_users(
    request: Request,
    imports: Imports,
    key: ImportKey = None,
    on_conflict: Annotated[Literal["fail", "skip", "update"], Query()] = "fail",
    unknown_columns: Annotated[Literal["fail", "ignore"], Query(description="For CSV")] = "fail",
    keep_ids: Annotated[Flag, Query(description="Keep the `id` of each record, which an export has written")] = False,
    dry_run: Annotated[Flag, Query(description="Count and check the records, and change no user")] = False,
) -> Response:
    """Create users from NDJSON or CSV of any length. The response follows when all records are processed.

    An interrupted import continues when the same file is sent with the same `Idempotency-Key`.
    """
    options = ImportOptions(parse_format(request), on_conflict, keep_ids, dry_run)
    origin = request_context(request).origin
    started = await imports.begin(origin, options, key=key)
    records = parse_records(request, make_parser(options.format, unknown_columns=unknown_columns))
    try:
        await imports.run(started, records, origin)
    except ServiceError as error:
        return await stopped_response(request, imports, started, error)
    except asyncio.CancelledError:
        # The server stops, and waits for the response. The deadline, which cancels too, was lifted.
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return await stopped_response(request, imports, started, ShuttingDown())
    except Exception:
        log.exception("an import has failed", extra={"request_id": request_context(request).request_id.decode()})
        return await stopped_response(request, imports, started, ServiceError())
    headers = [REPLAYED_HEADER] if started["state"] == "completed" else []
    return import_response(await imports.find(started["id"]), status=202, headers=headers)


@router.get("/imports", response_model=ImportList, dependencies=reading)
async def list_imports(
    request: Request,
    imports: Imports,
    key: Annotated[str | None, Query(max_length=255, description="The import with this `Idempotency-Key`")] = None,
) -> ImportList:
    """The latest imports, the newest first; or the one that the caller has started with a key."""
    if key is None:
        found = await imports.latest(LATEST)
    else:
        found = await imports.find_by_key(request_context(request).origin.actor, key)
    return ImportList(items=list(map(read, found)))


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
    return ClosingResponse(imports.failures(import_id), media_type=NDJSON)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=EXPORT_RESPONSE,
    dependencies=reading,
    openapi_extra={OPEN_QUERY: METADATA_PARAMETER_PREFIX, "parameters": [METADATA_PARAMETER]},
)
async def export_users(request: Request, filters: Filters, fields: Fields) -> Response:
    """The users that match the filters of the list, in order of creation, as of the time of the request.

    NDJSON, or CSV with `Accept: text/csv`. Further parameters: `metadata.<key>=<value>`.
    """
    get_resources(request).require_database()
    media_type = choose_media_type(request.headers.get("accept", ""))
    export_format = EXPORT_FORMATS[FORMATS_BY_MEDIA_TYPE[media_type]](fields)
    await get_database(request).note_export(request_context(request).origin)
    pieces = get_database(request).export(filters, export_format)
    return ClosingResponse(pieces, media_type=media_type, headers={"Vary": "Accept"})


def choose_media_type(accept: str) -> str:
    """CSV where the client accepts it and does not name NDJSON."""
    types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    names_ndjson = any(FORMATS_BY_MEDIA_TYPE.get(name) == "ndjson" for name in types)
    return CSV if CSV in types and not names_ndjson else NDJSON


def parse_format(request: Request) -> str:
    """Raises UnsupportedMediaType."""
    return FORMATS_BY_MEDIA_TYPE[check_content_type(request, FORMATS_BY_MEDIA_TYPE)]


def import_location(import_id: UUID) -> str:
    return f"/api/v1/users/imports/{import_id}"


def read(found: Import) -> ImportRead:
    return ImportRead.model_validate(dict(found))


def import_response(found: Import, *, status: int = 200, headers: Headers = ()) -> Response:
    location = (b"location", import_location(found["id"]).encode())
    body = read(found).model_dump_json().encode()
    return to_response(make_response(status, body, [(b"cache-control", b"no-store"), location, *headers]))


async def stopped_response(request: Request, imports: ImportRunner, started: Import, error: ServiceError) -> Response:
    """The problem that has stopped an import, with the import as it is now: what came before is applied."""
    try:
        found = read(await imports.find(started["id"]))
    except ServiceError:
        applied = f"Read import {started['id']} for what it has applied."
        extension: dict[str, Any] = {"id": str(started["id"])}
    else:
        applied = f"Import {found.id} has processed {found.position:,} records, to line {found.line:,} of the file."
        extension = found.model_dump(mode="json")
    error.detail = f"{error.detail.rstrip('.')}. {applied}"
    request_id = request_context(request).request_id.decode()
    response = to_response(render_problem(error, request_id, extensions={"import": extension}))
    response.headers["Location"] = import_location(started["id"])
    return response


async def parse_records(request: Request, parser: RecordParser) -> AsyncIterator[Sequence[NumberedRecord]]:
    async for piece in request.stream():
        for start in range(0, len(piece), PARSED_AT_ONCE_BYTES):
            yield list(parser.feed(piece[start : start + PARSED_AT_ONCE_BYTES]))
            # Other requests run in between, also when the server hands over the body in one piece.
            await asyncio.sleep(0)
    yield list(parser.end())
