"""The entry point of kn func.

The middleware of kn func forwards no lifespan, calls `start`, `stop`, `alive` and `ready` on the running loop without
awaiting them, and serves on after an exception in `start`. After `stop` its loop ends at once and cancels every task.
So one task lives as long as the function: it starts the application, and closes it when it is cancelled.
"""

import asyncio
from collections.abc import Mapping

from user_service.app import Application, Receive, Scope, Send, create_app, respond
from user_service.errors import ConfigurationError, Unavailable
from user_service.observability.logging import log, set_up_logs
from user_service.settings import Settings
from user_service.web.request_context import RequestContext, read_headers
from user_service.web.responses import render_problem


class Function:
    """The User Service in the interface of kn func's middleware."""

    def __init__(self) -> None:
        self.application: Application | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = asyncio.Event()
        self.failed = False

    def start(self, cfg: Mapping[str, str]) -> None:
        """Begins to start. When the application can't start, the log says why, and `ready` stays false."""
        set_up_logs(level="info", log_format="json")
        try:
            self.application = create_app(Settings.load(cfg), environ=cfg)
        except ConfigurationError as error:
            self.fail(error)
            return
        self.task = asyncio.get_running_loop().create_task(self.run(self.application))

    async def run(self, application: Application) -> None:
        try:
            await application.start()
            self.started.set()
            await asyncio.Event().wait()
        except ConfigurationError as error:
            self.fail(error)
        finally:
            await application.stop()
            log.info("the function is closed")

    def fail(self, error: ConfigurationError) -> None:
        log.critical("the function can't start", extra={"reason": str(error)})
        self.failed = True
        self.started.set()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises nothing: the middleware's own response to an exception is malformed."""
        await self.started.wait()
        if self.failed or self.application is None:
            await refuse(scope, send)
            return
        try:
            await self.application(scope, receive, send)
        except Exception:
            # The application handles its own errors; what is left is a connection that is lost.
            log.warning("a response could not be sent", exc_info=True)

    def alive(self) -> tuple[bool, str]:
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be served, by a check of the database that is about a second old."""
        if self.failed or self.application is None or not self.started.is_set():
            return False, "starting"
        health = self.application.health
        health.refresh()
        return (True, "ready") if health.report().is_ready else (False, "not ready")

    def stop(self) -> None:
        """Reports not ready; the application is closed when the middleware's loop ends, right after this."""
        if self.application is not None:
            self.application.health.stopping = True


async def refuse(scope: Scope, send: Send) -> None:
    context = RequestContext(scope["method"], read_headers(scope["headers"]))
    error = Unavailable("The function could not start; its log says why.")
    await respond(render_problem(error, context.request_id.decode()), context, send)


def new() -> Function:
    """The function, for kn func's scaffolding."""
    return Function()
