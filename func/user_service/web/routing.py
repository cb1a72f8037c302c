"""Routes that check content types, bodies and query parameters strictly."""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from inspect import signature
from types import MappingProxyType
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Message, Receive, Scope

from user_service.errors import InvalidHeader, PayloadTooLarge, RequestIncomplete, UnsupportedMediaType
from user_service.values.media_types import parse_media_type
from user_service.web.arguments import NO_BODY, Arguments, is_resolvable, parse_json
from user_service.web.openapi import JSON, Responses, problems
from user_service.web.problems import request_context, to_response
from user_service.web.request_checks import check_encoding, check_names, parse_query
from user_service.web.responses import RawResponse
from user_service.web.route_table import RESERVED_SEGMENTS

MERGE_PATCH: Final = "application/merge-patch+json"
OPEN_QUERY: Final = "x-open-query-prefix"
LARGE_BODY_BYTES: Final = 2 * 1024 * 1024
# Bodies up to this size do not enter the bulkhead.
SMALL_BODY_BYTES: Final = 64 * 1024
NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


class TextConvertor(Convertor[str]):
    """The rest of a path. Starlette's `path` does not match line breaks."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class UserConvertor(TextConvertor):
    """A path segment that may be a user's id; the endpoint rejects an invalid one with an explanation."""

    regex = rf"(?!(?:{'|'.join(sorted(RESERVED_SEGMENTS))})(?:/|$))[^/]+"


register_url_convertor("text", TextConvertor())
register_url_convertor("user", UserConvertor())


class JsonRequest(Request):
    """A request whose JSON is parsed strictly: UTF-8, no lone surrogates, no NaN, at most 1,024 levels.

    Its body has at most `limit` bytes. Reading more raises PayloadTooLarge, and an incomplete one RequestIncomplete.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        super().__init__(scope, limited(receive, limit))
        self.content: bytes | None = None
        # The query parameters by name, once none is repeated.
        self.parameters: Mapping[str, str] = NO_PARAMETERS

    async def body(self) -> bytes:
        if self.content is None:
            pieces, more = [], True
            while more:
                message = await self.receive()
                pieces.append(message.get("body", b""))
                more = message.get("more_body", False)
            self.content = b"".join(pieces)
        return self.content

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """Rejects what FastAPI accepts: unknown or repeated query parameters, other content types, large bodies.

    `respond` runs the endpoint without FastAPI where `Arguments` can resolve its arguments and it returns a response;
    app.py calls it directly. Other routes go through FastAPI's own handler.
    """

    # Enough for two objects of 16 KiB with every character escaped, and the other fields.
    max_body_bytes = 256 * 1024
    uses_bulkhead = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if isinstance(options.get("response_model"), DefaultPlaceholder) and returns_response(endpoint):
            # FastAPI would take the type RawResponse for the model of a body.
            options["response_model"] = None
        super().__init__(path, endpoint, **options)
        if self.body_field is not None or "requestBody" in (self.openapi_extra or {}):
            self.responses = problems(413, 415) | self.responses

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook, which it calls when the route is made."""
        self.handle_resolved = super().get_route_handler()
        self.known_parameters = query_names(self.dependant)
        self.open_prefix = (self.openapi_extra or {}).get(OPEN_QUERY)
        self.media_types = {JSON, MERGE_PATCH} if "PATCH" in (self.methods or ()) else {JSON}
        self.is_direct = is_resolvable(self.dependant) and returns_response(self.endpoint)
        self.arguments = Arguments(self.dependant)

        async def handle(request: Request) -> Response:
            response = await self.respond(request.scope, request.receive)
            return to_response(response) if isinstance(response, RawResponse) else response

        return handle

    async def respond(self, scope: Scope, receive: Receive) -> Response | RawResponse:
        """The response to a request with this path and method. Raises ServiceError.

        The scope has `app`, the `path_params`, and the context in `state`.
        """
        request = JsonRequest(scope, receive, self.max_body_bytes)
        headers = request_context(request).headers
        request.parameters = read_query(request, self.known_parameters, self.open_prefix)
        check_single_key(request)
        check_length(headers, self.max_body_bytes)
        check_content_encoding(headers)
        takes_json = self.body_field is not None
        if takes_json:
            check_content_type(request, self.media_types)
        # Read before FastAPI reads it, which would report a body that is too large as malformed.
        body = await request.body() if takes_json or self.uses_bulkhead else b""
        if self.uses_bulkhead and len(body) > SMALL_BODY_BYTES:
            async with request.app.parts.bulkhead.entered():
                return await self.run(request, headers, body)
        return await self.run(request, headers, body)

    async def run(self, request: JsonRequest, headers: Mapping[bytes, bytes], body: bytes) -> Response | RawResponse:
        if not self.is_direct:
            return await self.handle_resolved(request)
        document = parse_json(body) if self.body_field is not None else NO_BODY
        response: Response | RawResponse = await self.endpoint(
            **await self.arguments.resolve(request, request.parameters, headers, document)
        )
        return response


def returns_response(endpoint: Callable[..., Any]) -> bool:
    """Whether an endpoint's result needs no serialisation."""
    result = signature(endpoint).return_annotation
    return result is RawResponse or (isinstance(result, type) and issubclass(result, Response))


class LargeRoute(StrictRoute):
    """Large bodies, up to ten megabytes each once parsed: a bulkhead bounds how many are parsed at a time."""

    max_body_bytes = LARGE_BODY_BYTES
    uses_bulkhead = True


def make_router(
    tag: str,
    *,
    prefix: str = "",
    route_class: type[StrictRoute] = StrictRoute,
    dependencies: Sequence[Depends] | None = None,
    responses: Responses | None = None,
) -> APIRouter:
    """A router whose routes need no `include_router`, so that api.py can use them as they are."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=route_class,
        dependencies=dependencies,
        responses=responses,
        generate_unique_id_function=operation_id,
    )


def operation_id(route: APIRoute) -> str:
    return route.name


def payload_too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must not exceed {limit:,} bytes.")


def check_length(headers: Mapping[bytes, bytes], limit: int) -> None:
    """Raises PayloadTooLarge when Content-Length exceeds the limit, before the body is read."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise payload_too_large(limit)


def limited(receive: Receive, limit: int) -> Receive:
    """`receive` for the body alone.

    It raises PayloadTooLarge at the first byte beyond `limit`, whatever Content-Length says, and RequestIncomplete.
    """
    seen = 0

    async def receive_more() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestIncomplete
        seen += len(message.get("body", b""))
        if seen > limit:
            raise payload_too_large(limit)
        return message

    return receive_more


def query_names(dependant: Dependant) -> set[str]:
    """The query parameters of an endpoint and of its dependencies."""
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*(query_names(inner) for inner in dependant.dependencies))


def read_query(request: Request, known: set[str], prefix: str | None) -> Mapping[str, str]:
    """The query parameters.

    Raises BadRequest, and ValidationFailed for names that are repeated, and others than `known` and those that begin
    with `prefix`.
    """
    query = request.scope["query_string"]
    check_encoding((request.scope.get("raw_path") or b"") + b"?" + query)
    if not query:
        return NO_PARAMETERS
    pairs = parse_query(query)
    parameters = dict(pairs)
    if len(parameters) < len(pairs) or not known.issuperset(parameters):
        names = [name for name, _ in pairs]
        check_names(names, lambda name: name in known or (prefix is not None and name.startswith(prefix)))
    return parameters


def check_single_key(request: Request) -> None:
    """Raises InvalidHeader for two different keys, of which a proxy could have seen the other one."""
    if b"," in request_context(request).headers.get(b"idempotency-key", b"") and has_other_key(request):
        raise InvalidHeader("Send one Idempotency-Key, not several.")


def has_other_key(request: Request) -> bool:
    return len(set(request.headers.getlist("idempotency-key"))) > 1


def check_content_type(request: Request, types: Collection[str]) -> str:
    """The media type of the body. Raises UnsupportedMediaType unless it is one of `types`, in UTF-8."""
    field = request_context(request).headers.get(b"content-type", b"").decode("latin-1")
    # Several lines of the same type are one; their names are in one field here.
    fields = {field} if "," not in field else set(request.headers.getlist("content-type"))
    media_type = parse_media_type(", ".join(fields))
    if len(fields) > 1 or media_type.name not in types:
        raise UnsupportedMediaType(f"Send the body with Content-Type: {' or '.join(sorted(types))}.")
    if not media_type.is_utf8:
        raise UnsupportedMediaType(
            f"{media_type.name} must be in UTF-8: convert the body, and send charset=utf-8 or no charset."
        )
    return media_type.name


def check_content_encoding(headers: Mapping[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType for a compressed body, which would be read as if it were not compressed."""
    for encoding in headers.get(b"content-encoding", b"").lower().split(b","):
        if encoding.strip() not in {b"", b"identity"}:
            raise UnsupportedMediaType("Send the body without Content-Encoding: it is not unpacked.")
