"""`/scim/v2`: SCIM 2.0, which the library serves; identity, limits, idempotency and transactions are the service's."""

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
from fastapi import Depends, Request

from user_service.encryption.keyring import Keyring
from user_service.errors import InvalidHeader
from user_service.settings import SCIM_PATH
from user_service.users.service import UserService
from user_service.users.unit_of_work import UserDatabase
from user_service.web.dependencies import Changes, get_parts, get_resources, requires
from user_service.web.problems import request_context
from user_service.web.responses import RawResponse, make_response
from user_service.web.route_table import ALL_BELOW_SCIM
from user_service.web.routing import OPEN_QUERY, LargeRoute, StrictRoute, make_router, payload_too_large

if TYPE_CHECKING:
    from scim2_server.requests import ScimRequest
    from scim2_server.responses import ScimResponse

    from user_service.scim.application import ScimApplication

# Of a Host header: a name or an address, and a port.
HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# What the library reads.
HEADERS: Final = ("content-type", "if-match", "if-none-match")
SLASHES: Final = re.compile("/{2,}")
SEARCH: Final = "/.search"
BULK: Final = "/Bulk"

router = make_router("scim", route_class=LargeRoute)


def open_scim(database: UserDatabase, keys: Keyring) -> "ScimApplication":
    """The application behind `/scim/v2`. Its import takes a third of a second: call it on a thread."""
    from user_service.scim.application import ScimApplication

    return ScimApplication(database, keys)


async def answer_scim(request: Request, changes: Changes) -> RawResponse:
    """Hand a request over to the SCIM library."""
    application = get_parts(request).scim.value or await get_parts(request).scim.get()
    scim_request = await read_request(request)
    context = request_context(request)

    if scim_request.method == "GET" or scim_request.path.endswith(SEARCH):
        response, context.rows = await application.answer(scim_request, None, context.charge)
        return render(response)

    async def operate(users: UserService) -> "ScimResponse":
        response, _ = await application.answer(scim_request, users, context.charge)
        return response

    if scim_request.path == BULK:
        return await changes.run_in_transaction(operate, render)
    return await changes.run(operate, render)


async def read_request(request: Request) -> "ScimRequest":
    """The request in the library's terms. Raises PayloadTooLarge, InvalidHeader."""
    from scim2_server.requests import ScimRequest

    headers, body = request_context(request).headers, await request.body()
    # As the library reads it. A base URL may have been entered with a slash at its end.
    path = "/" + SLASHES.sub("/", request.scope["path"].removeprefix(SCIM_PATH)).strip("/")
    if len(body) > StrictRoute.max_body_bytes and path != BULK:
        raise payload_too_large(StrictRoute.max_body_bytes)
    return ScimRequest(
        method=request.method,
        base_url=base_url(request),
        path=path,
        query=dict(request.query_params),
        headers=[(name, headers[name.encode()].decode("latin-1")) for name in HEADERS if name.encode() in headers],
        body=body,
    )


def render(response: "ScimResponse") -> RawResponse:
    headers = {"Cache-Control": "private, no-store", **response.headers}
    media_type = headers.pop("Content-Type")
    body = b"" if response.body is None else orjson.dumps(response.body)
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return make_response(response.status, body, lines, media_type.encode())


def base_url(request: Request) -> str:
    """The URL of the SCIM endpoints as the client sees it: SCIM_BASE_URL, or what the request says of it.

    Raises InvalidHeader.
    """
    settings = get_resources(request).settings
    if settings.scim_base_url is not None:
        return settings.scim_base_url
    headers = request_context(request).headers
    host = headers.get(b"host", b"").decode("latin-1")
    if not HOST.fullmatch(host):
        raise InvalidHeader("Host must be a name or an address, and may have a port.")
    # Ingresses end TLS. The value is returned to the client that has sent it, and used for nothing else.
    forwarded = headers.get(b"x-forwarded-proto", b"").partition(b",")[0].strip().lower().decode("latin-1")
    scheme = forwarded if forwarded in {"http", "https"} else request.scope["scheme"]
    return f"{scheme}://{host}{SCIM_PATH}"


add_route: Final[Any] = partial(
    router.add_api_route,
    endpoint=answer_scim,
    methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
    include_in_schema=False,
    dependencies=[Depends(requires("scim"))],
    openapi_extra={OPEN_QUERY: ""},
)
add_route(SCIM_PATH)
add_route(ALL_BELOW_SCIM)
