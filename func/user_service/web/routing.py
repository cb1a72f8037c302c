"""How every route reads its request: strict about content types, bodies and query parameters."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Message, Receive

from user_service.errors import PayloadTooLarge, UnsupportedMediaType
from user_service.web.idempotency import answer_once
from user_service.web.openapi import JSON, Responses, problems
from user_service.web.request_checks import check_encoding, check_names

MERGE_PATCH: Final = "application/merge-patch+json"
OPEN_QUERY: Final = "x-open-query-prefix"
LARGE_BODY_BYTES: Final = 2 * 1024 * 1024
# Too little to be worth a wait.
SMALL_BODY_BYTES: Final = 64 * 1024


class TextConvertor(Convertor[str]):
    """The rest of a path, whatever is in it: `path` leaves out what has a line break, which then is no route's."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class UserConvertor(TextConvertor):
    """One step of a path that may be a user's id: a wrong one is refused by the endpoint, with a reason."""

    regex = r"(?!(?:batch|by-external-id|export|imports|me)(?:/|$))[^/]+"


register_url_convertor("text", TextConvertor())
register_url_convertor("user", UserConvertor())


class JsonRequest(Request):
    """A request whose JSON is parsed strictly: UTF-8, no lone surrogates, no NaN, at most 1,024 levels."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """Refuses what FastAPI would overlook: unknown or repeated query parameters, other content types, large bodies."""

    # Two objects of 16 KiB, with every character escaped, and the rest.
    max_body_bytes = 256 * 1024
    shares_room = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.body_field is not None or "requestBody" in (self.openapi_extra or {}):
            self.responses = problems(413, 415) | self.responses

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known, limit, shares_room = query_names(self.dependant), self.max_body_bytes, self.shares_room
        prefix = (self.openapi_extra or {}).get(OPEN_QUERY)
        takes_json = self.body_field is not None
        types = {JSON, MERGE_PATCH} if "PATCH" in (self.methods or ()) else {JSON}

        async def strict(request: Request) -> Response:
            check_query(request, known, prefix)
            check_length(request, limit)
            if takes_json:
                check_content_type(request, types)
            request = JsonRequest(request.scope, limited(request.receive, limit))
            # Before FastAPI does, who would take a body that is too large for one that can't be read.
            body = await request.body() if takes_json or shares_room else b""
            if shares_room and len(body) > SMALL_BODY_BYTES:
                async with request.app.state.parts.bulkhead.entered():
                    return await answer_once(request, handle)
            return await answer_once(request, handle)

        return strict


class LargeRoute(StrictRoute):
    """Bodies that may become ten megabytes of objects each: few are at work at once, and the others wait as bytes."""

    max_body_bytes = LARGE_BODY_BYTES
    shares_room = True


def make_router(
    tag: str,
    *,
    prefix: str = "",
    route_class: type[StrictRoute] = StrictRoute,
    dependencies: Sequence[Depends] | None = None,
    responses: Responses | None = None,
) -> APIRouter:
    """A router whose routes are complete as they are made, so that api.py can take them over."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=route_class,
        dependencies=dependencies,
        responses=responses,
        generate_unique_id_function=name_of,
    )


def name_of(route: APIRoute) -> str:
    return route.name


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body may have {limit:,} bytes at most.")


def check_length(request: Request, limit: int) -> None:
    """Raises PayloadTooLarge for a body that is declared to be too large, before any of it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)


def limited(receive: Receive, limit: int) -> Receive:
    """Reads a body whatever its declared length; raises PayloadTooLarge at the first byte beyond `limit`."""
    seen = 0

    async def receive_more() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large(limit)
        return message

    return receive_more


def query_names(dependant: Dependant) -> set[str]:
    """The query parameters of an endpoint and of all that it depends on."""
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*(query_names(inner) for inner in dependant.dependencies))


def check_query(request: Request, known: set[str], prefix: str | None) -> None:
    """Raises BadRequest and ValidationFailed; `prefix` opens a family of names."""
    check_encoding((request.scope.get("raw_path") or b"") + b"?" + request.scope["query_string"])
    names = [name for name, _ in request.query_params.multi_items()]
    check_names(names, lambda name: name in known or (prefix is not None and name.startswith(prefix)))


def check_content_type(request: Request, types: set[str]) -> None:
    """Raises UnsupportedMediaType unless the body is declared to be JSON in UTF-8."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() not in types or charset not in {"", "utf-8", "utf8"}:
        raise UnsupportedMediaType(f"Send the body with Content-Type: {' or '.join(sorted(types))}.")
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType("Send the body without Content-Encoding.")
