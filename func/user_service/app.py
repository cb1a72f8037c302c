"""The application: one ASGI callable that every front door shares, and the composition root behind it.

Around each request stands an context (ids, authentication, metrics, log). Inside, the lane answers what it knows; the
FastAPI application, imported in the background right after the start, answers everything else.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from user_service.bootstrap import Resources
from user_service.errors import ConfigurationError, Overloaded, RequestTimedOut, ServiceError
from user_service.observability.logging import log, set_up_logs
from user_service.secret_rotation import SecretFiles
from user_service.security.authentication import Authenticator, Principal, refuse_repeated
from user_service.settings import Settings
from user_service.web.fast_path import LIVE_PATH, READY_PATH, FastPath
from user_service.web.health import Health
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse, problem_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

GUARDED: Final = "/api/v1"
# Asked every few seconds by machines: their spans would drown the others.
UNTRACED: Final = frozenset({LIVE_PATH, READY_PATH, "/metrics"})
EVENT_DOORS: Final = frozenset({"/events", "/"})
NEVER_SHED: Final = ("/api/health/", "/metrics")
SHED_AFTER_SECONDS: Final = 1.0
# While the API is imported on another thread, the loop must not wait long for the interpreter's lock.
IMPORTING_SWITCH_SECONDS: Final = 0.0005
# More than what a batch of 1,000 makes and drops again.
COLLECTED_AFTER_OBJECTS: Final = 50_000


def create_app(settings: Settings | None = None, *, environ: Mapping[str, str] = os.environ) -> "Application":
    """The application of these settings, or of the environment's, whose files of secrets it watches.

    Raises ConfigurationError.
    """
    settings = settings or Settings.load(environ)
    set_up_logs(level=settings.log_level, log_format=settings.log_format)
    return Application(Resources(settings, SecretFiles(environ)))


class Application:
    """ASGI 3. Servers that send no lifespan call `start` and `stop` themselves."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.authenticator = resources.authenticator
        self.max_in_flight = resources.settings.max_in_flight
        self.request_timeout = resources.settings.request_timeout
        self.requests = resources.metrics.requests
        self.health = Health(resources)
        self.fast_path = FastPath(resources, self.health)
        self.api: Any = None
        self.loading: asyncio.Task[Any] | None = None
        self.relaying: asyncio.Task[None] | None = None
        self.refused = False

    async def start(self, *, relay: bool = True) -> None:
        """Connects, and begins to import the API; `relay` has events relayed in the background.

        Raises ConfigurationError.
        """
        await self.resources.open()
        self.loading = asyncio.create_task(self.load_api())
        if relay and self.resources.settings.sink_url is not None:
            self.relaying = asyncio.create_task(self.start_relay())

    async def stop(self) -> None:
        """Closes what `start` opened."""
        self.health.stopping = True
        # Waited for, not awaited: a task that failed or was cancelled must not keep the rest from being closed.
        starting = [task for task in (self.loading, self.relaying) if task is not None]
        await asyncio.gather(*starting, return_exceptions=True)
        if self.api is not None:
            await self.api.state.storage.close()
        await self.resources.close()

    async def load_api(self) -> Any:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(IMPORTING_SWITCH_SECONDS)
        # An import leaves many objects and hardly any garbage.
        gc.disable()
        try:
            self.api = await asyncio.to_thread(build_api, self.resources, self.fast_path)
        except Exception:
            self.health.broken = True
            log.critical("the API can't be loaded: the installation is broken", exc_info=True)
            raise
        finally:
            sys.setswitchinterval(interval)
            # What is there by now stays: the collector need not look at it again, nor many times in a batch.
            gc.freeze()
            gc.set_threshold(COLLECTED_AFTER_OBJECTS, 10, 10)
            gc.enable()
        return self.api

    async def start_relay(self) -> None:
        """After the API: a first request is worth more than an event that has waited already."""
        if self.loading is not None:
            await asyncio.wait([self.loading])
        try:
            relay = await self.resources.open_relay()
        except Exception:
            log.critical("events can't be relayed", exc_info=True)
            return
        if relay is not None:
            relay.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            if self.requests.in_flight >= self.max_in_flight and not scope["path"].startswith(NEVER_SHED):
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
        headers = dict(scope["headers"])
        path = scope["path"]
        tracing = self.resources.tracing
        make_exchange = RequestContext if tracing is None or path in UNTRACED else tracing.context
        context = make_exchange(scope["method"], headers)
        self.requests.in_flight += 1
        try:
            if path.startswith(GUARDED):
                await self.admit(self.authenticator, scope, context)
            elif path in EVENT_DOORS and scope["method"] == "POST":
                principal = await self.admit(self.resources.event_authenticator, scope, context)
                principal.require("events:write")
            answer = await self.fast_path.answer(scope["method"], path, scope["query_string"], context)
            if answer is None:
                await self.forward(scope, receive, send, context)
            else:
                await respond(answer, context, send)
        except ServiceError as error:
            await respond(problem_of(error, context.request_id.decode()), context, send)
        except Exception:
            log.exception("unexpected error", extra={"request_id": context.request_id.decode()})
            await respond(problem_of(ServiceError(), context.request_id.decode()), context, send)
        finally:
            self.requests.in_flight -= 1
            context.finish(self.resources)

    async def shed(self, scope: Scope, send: Send) -> None:
        """Refuses a request at little cost, and not at once: who asks again right away would take the time of those
        who are at work.
        """
        self.resources.metrics.shed.add()
        await asyncio.sleep(SHED_AFTER_SECONDS)
        context = RequestContext(scope["method"], dict(scope["headers"]))
        error = Overloaded(f"This replica is at work on {self.max_in_flight} requests already.")
        await respond(problem_of(error, context.request_id.decode()), context, send)

    async def admit(self, authenticator: Authenticator, scope: Scope, context: RequestContext) -> Principal:
        """Finds out who asks, and counts it. Raises Unauthenticated, IssuerUnavailable, RateLimited."""
        headers = context.headers
        if len(headers) != len(scope["headers"]):
            refuse_repeated(scope["headers"])
        principal = authenticator.find(headers) or await authenticator.verify(headers)
        context.principal = principal
        context.allowance = allowance = self.resources.limiter.allowance_of(principal)
        if allowance is not None and not allowance.spend(1):
            await allowance.charge(1)
        return principal

    async def forward(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        """Hands a request to the API, which may still be on its way in."""
        api: AsgiApp = self.api or await asyncio.shield(self.loading_task())
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "state": {**scope.get("state", {}), "context": context}}
        if is_head:
            inner["method"] = "GET"
        started = False

        async def send_more(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                context.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *context.own_headers]}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            async with asyncio.timeout(self.request_timeout) as deadline:
                context.deadline = deadline
                await api(inner, receive, send_more)
        except Exception as error:
            if not started:
                if isinstance(error, TimeoutError) and deadline.expired():
                    raise RequestTimedOut from None
                raise
            log.exception("unexpected error", extra={"request_id": context.request_id.decode()})
        finally:
            if "route" in inner:
                context.route = inner["route"].path_format

    def loading_task(self) -> "asyncio.Task[Any]":
        if self.loading is None:
            raise RuntimeError("the application was not started: send a lifespan, or call start()")
        return self.loading


async def respond(answer: RawResponse, context: RequestContext, send: Send) -> None:
    context.status = answer.status
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [*answer.headers, *context.own_headers],
        }
    )
    await send({"type": "http.response.body", "body": b"" if context.method == "HEAD" else answer.body})


def build_api(resources: Resources, fast_path: FastPath) -> Any:
    from user_service.web.api import create_api

    return create_api(resources, fast_path)
