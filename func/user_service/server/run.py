"""Runs the application in uvicorn, in this process: its configuration and its stop."""

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Final

import uvicorn

from user_service.app import Application
from user_service.server.protocol import bounded_protocol
from user_service.settings import Settings
from user_service.web.health import Health

LISTEN_BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75
# With 15 s of sleep before SIGTERM in a cluster, 8 s for requests and 3 s for the pools, a stop fits a grace period of
# 30 s.
DRAIN_SECONDS: Final = 1.0
DRAIN_STEP_SECONDS: Final = 0.02


def run_server(application: Application, settings: Settings) -> bool:
    """Serves until SIGTERM or SIGINT. False when the server did not start or the API could not be loaded.

    uvicorn raises the signal again after its stop: SIGTERM needs a handler before this is called.
    """
    server = DrainingServer(uvicorn_config(application, settings), application.health)
    # uvicorn raises SystemExit when it can't start, after it has logged the reason.
    with suppress(SystemExit):
        server.run()
    return server.started and not application.health.broken


class DrainingServer(uvicorn.Server):
    """Asks clients to close their connections before it closes them.

    uvicorn closes an idle connection at once, which loses a request that is on its way. This server first sends
    `Connection: close` with every response for up to `DRAIN_SECONDS`, so that a busy client's next request goes to
    another pod.

    It also stops when the API can't be loaded, so that the supervisor of the process restarts it.
    """

    def __init__(self, config: uvicorn.Config, health: Health) -> None:
        super().__init__(config)
        self.health = health

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.health.broken

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.health.resources.feed_watch.end_waits()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for _ in range(round(DRAIN_SECONDS / DRAIN_STEP_SECONDS)):
            if not self.server_state.connections:
                break
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        await super().shutdown(sockets)


def uvicorn_config(application: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        # asyncio gives `::` to IPv6 alone; an empty host is every address of both families.
        host="" if settings.host == "::" else settings.host,
        port=settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=bounded_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=LISTEN_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
