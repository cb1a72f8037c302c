"""The ASGI application that every entry point shares.

Each request gets a context (ids, principal, metrics, log). The fast path serves reads by id and probes; the
FastAPI application, which is imported in the background after the start, serves everything else.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from user_service.bootstrap import Resources
from user_service.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Overloaded,
    RequestTimedOut,
    ServiceError,
    ShuttingDown,
)
from user_service.observability.logging import log, set_up_logs
from user_service.scim.error_documents import is_scim_path
from user_service.secret_rotation import SecretFiles, SecretRotation
from user_service.security.authentication import Authenticator, refuse_repeated
from user_service.security.principals import Principal
from user_service.settings import Settings
from user_service.values.deferred import Deferred
from user_service.values.time_limits import TimeLimit
from user_service.web.api_loader import load_api
from user_service.web.bulkhead import Bulkhead
from user_service.web.cors import Cors
from user_service.web.fast_path import LIVE_PATH, READY_PATH, FastPath
from user_service.web.health import Health
from user_service.web.references import relative_location
from user_service.web.request_context import RequestContext, read_headers
from user_service.web.responses import RawResponse
from user_service.web.route_table import RouteTable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Api(Protocol):
    """An ASGI application, and those of its routes that respond without it."""

    @property
    def app(self) -> AsgiApp: ...

    @property
    def routes(self) -> RouteTable: ...


GUARDED: Final = "/api/v1"
# Probes and scrapes come every few seconds: most spans would be theirs.
UNTRACED: Final = frozenset({LIVE_PATH, READY_PATH, "/metrics"})
EVENT_PATHS: Final = frozenset({"/events", "/"})
NEVER_SHED: Final = ("/api/health/", "/metrics")
SHED_AFTER_SECONDS: Final = 1.0
# Requests that the server has cancelled at its stop end within this time, or lose their connections to PostgreSQL.
CUT_SECONDS: Final = 2.0
CUT_STEP_SECONDS: Final = 0.02


def create_app(settings: Settings | None = None, *, environ: Mapping[str, str] = os.environ) -> "Application":
    """The application of these settings, or of the environment's; it watches the environment's files of secrets.

    Raises ConfigurationError.
    """
    settings = settings or Settings.load(environ)
    set_up_logs(level=settings.log_level, log_format=settings.log_format)
    files = SecretFiles(environ)
    return Application(Resources(settings, find_keys=files.find_keys), files)


class Application:
    """ASGI 3. Servers that send no lifespan call `start` and `stop` themselves."""

    def __init__(
        self, resources: Resources, secret_files: SecretFiles | None = None, *, bulkhead: Bulkhead | None = None
    ) -> None:
        self.resources = resources
        self.authenticator = resources.authenticator
        self.max_in_flight = resources.settings.max_in_flight
        self.request_timeout = resources.settings.request_timeout
        self.cors = Cors(resources.settings.cors_origins) if resources.settings.cors_origins else None
        self.has_scim = resources.settings.has_scim
        self.requests = resources.metrics.requests
        self.rotation = SecretRotation(resources, secret_files)
        self.health = Health(resources)
        self.fast_path = FastPath(resources, self.health)
        self.api: Deferred[Api] = Deferred(
            partial(load_api, resources, self.fast_path, self.health, bulkhead or Bulkhead())
        )
        self.started = False
        self.starting_background: asyncio.Task[None] | None = None
        self.filling_pool: asyncio.Task[None] | None = None
        # Whether a lifespan was answered with `startup.failed`.
        self.refused = False

    async def start(self, *, background: bool = True) -> None:
        """Connects and begins to load the API; with `background`, the feed's task and the relay run.

        Raises ConfigurationError.
        """
        await self.resources.open()
        self.rotation.start()
        self.api.start()
        self.started = True
        self.filling_pool = asyncio.create_task(self.fill_pool())
        if background:
            self.starting_background = asyncio.create_task(self.start_background())

    async def fill_pool(self) -> None:
        """Opens a few connections for changes once the API is loaded. They are opened on demand where this fails."""
        await self.api.get_if_started()
        if self.resources.services is not None:
            with suppress(DatabaseUnavailable):
                await self.resources.services.database.fill_pool()

    async def start_background(self) -> None:
        """Starts the feed's task and the relay once the API is loaded: requests take priority over events."""
        await self.api.get_if_started()
        await self.resources.start_background()

    async def stop(self) -> None:
        """Closes what `start` opened."""
        self.health.stopping = True
        await self.wait_for_requests()
        self.rotation.stop()
        await self.api.get_if_started()
        if tasks := [task for task in (self.starting_background, self.filling_pool) if task is not None]:
            # `wait` does not raise when a task was cancelled, so that the rest is closed.
            await asyncio.wait(tasks)
        await self.resources.close()

    async def wait_for_requests(self) -> None:
        """Waits for requests that the server has cancelled: an import still notes where it has stopped."""
        for _ in range(round(CUT_SECONDS / CUT_STEP_SECONDS)):
            if not self.requests.in_flight:
                break
            await asyncio.sleep(CUT_STEP_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            if self.cors is not None:
                send = self.cors.share(scope["headers"], send)
            is_full = self.requests.in_flight >= self.max_in_flight and not scope["path"].startswith(NEVER_SHED)
            if is_full and not await self.fast_path.is_cached(scope["method"], scope["path"], dict(scope["headers"])):
                await self.shed(scope, send)
            else:
                await self.serve(scope, receive, send)
        elif kind == "lifespan":
            await self.live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except ConfigurationError as error:
            self.refused = True
            log.critical("the service can't start", extra={"reason": str(error)})
            await self.resources.close()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope["headers"])
        path = scope["path"]
        tracing = self.resources.tracing
        context = RequestContext(scope["method"], headers, tracing if path not in UNTRACED else None)
        context.is_scim = self.has_scim and is_scim_path(path)
        self.requests.in_flight += 1
        try:
            if self.cors is not None and (preflight := self.cors.answer_preflight(scope["method"], headers)):
                await respond(preflight, context, send)
                return
            if path.startswith(GUARDED) or context.is_scim:
                await self.admit(self.authenticator, scope, context)
            elif path in EVENT_PATHS and scope["method"] == "POST":
                principal = await self.admit(self.resources.event_authenticator, scope, context)
                principal.require("events:write")
            response = await self.fast_path.answer(scope["method"], path, scope["query_string"], context)
            if response is None:
                await self.forward(scope, receive, send, context)
            else:
                await respond(response, context, send)
        except ServiceError as error:
            await respond(context.render_error(error), context, send)
        except Exception:
            log.exception("unexpected error", extra={"request_id": context.request_id.decode()})
            await respond(context.render_error(ServiceError()), context, send)
        except asyncio.CancelledError:
            # The server stops, and cancels what has not ended within its shutdown timeout.
            if context.response_started:
                log_cut(ShuttingDown(), context)
            else:
                await respond(context.render_error(ShuttingDown()), context, send)
            raise
        finally:
            self.requests.in_flight -= 1
            context.finish(self.resources)

    async def shed(self, scope: Scope, send: Send) -> None:
        """Refuses a request, after a delay: an immediate retry would take time from the requests in progress."""
        self.resources.metrics.shed.add()
        await asyncio.sleep(SHED_AFTER_SECONDS)
        context = RequestContext(scope["method"], read_headers(scope["headers"]))
        error = Overloaded(f"This replica processes {self.max_in_flight} requests already.")
        context.is_scim = self.has_scim and is_scim_path(scope["path"])
        await respond(context.render_error(error), context, send)

    async def admit(self, authenticator: Authenticator, scope: Scope, context: RequestContext) -> Principal:
        """Authenticates a request and counts it against the principal's rate limit.

        Raises Unauthenticated, IssuerUnavailable, RateLimited.
        """
        headers = context.headers
        if len(headers) != len(scope["headers"]):
            refuse_repeated(scope["headers"])
        principal = authenticator.find(headers) or await authenticator.verify(headers)
        context.principal = principal
        limiter = self.resources.limiter
        context.allowance = allowance = limiter.find_allowance(principal)
        if allowance is not None and limiter.shared is None:
            allowance.charge_locally()
        elif allowance is not None:
            await allowance.charge()
        return principal

    async def forward(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        """Hands a request to the API, and waits for the API while it is loading. Raises RequestTimedOut."""
        if not self.started:
            raise RuntimeError("the application was not started: send a lifespan, or call start()")
        api = self.api.value or await self.api.get()
        inner = {**scope, "state": {**scope.get("state", {}), "context": context}}
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        try:
            with TimeLimit(self.request_timeout) as deadline:
                context.deadline = deadline
                found = api.routes.find(inner["method"], scope["path"])
                if found is None:
                    await api.app(inner, receive, ApiResponse(scope, context, send).send)
                    return
                route, inner["path_params"] = found
                context.route, inner["app"] = route.path_format, api.app
                response = await route.respond(inner, receive)
                if isinstance(response, RawResponse):
                    await respond(relative_response(response, scope), context, send)
                else:
                    await response(inner, receive, ApiResponse(scope, context, send).send)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.has_expired:
                error = RequestTimedOut()
            elif isinstance(error, RuntimeError) and isinstance(error.__cause__, ServiceError):
                # Starlette's error for a ServiceError after the start of a response.
                error = error.__cause__
            if not context.response_started:
                raise error from None
            log_cut(error, context)
        finally:
            if "route" in inner:
                context.route = inner["route"].path_format


class ApiResponse:
    """The response of the API. Its start is sent with the first piece of its body: until then, an error is answered."""

    def __init__(self, scope: Scope, context: RequestContext, send: Send) -> None:
        self.scope = scope
        self.context = context
        self.is_head = context.method == "HEAD"
        self.send_message = send
        self.start: MutableMapping[str, Any] | None = None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        if self.start is not None:
            start, self.start = self.start, None
            self.context.status = start["status"]
            self.context.response_started = True
            headers = relative_location(start.get("headers", ()), self.scope)
            await self.send_message({**start, "headers": [*headers, *self.context.own_headers]})
        await self.send_message({**message, "body": b""} if self.is_head else message)


def log_cut(error: Exception, context: RequestContext) -> None:
    """Logs, once, why a response ends before its body does. The server closes the connection."""
    extra = {"request_id": context.request_id.decode()}
    if isinstance(error, ServiceError):
        log.error("a response was cut", extra={**extra, "reason": error.code})
    else:
        log.error("unexpected error", extra=extra, exc_info=error)


def relative_response(response: RawResponse, scope: Scope) -> RawResponse:
    """The response with a `Location` that is relative to the request."""
    if any(name == b"location" for name, _ in response.headers):
        return response._replace(headers=relative_location(response.headers, scope))
    return response


async def respond(response: RawResponse, context: RequestContext, send: Send) -> None:
    context.status = response.status
    context.response_started = True
    await send(
        {"type": "http.response.start", "status": response.status, "headers": [*response.headers, *context.own_headers]}
    )
    await send({"type": "http.response.body", "body": b"" if context.method == "HEAD" else response.body})
