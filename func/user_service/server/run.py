"""`user-service serve`: uvicorn in this process, one worker, over the embedded PostgreSQL where none is named."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Final, NoReturn

import uvicorn

from user_service.app import Application, create_app
from user_service.encryption.keyring import load_api_keys
from user_service.errors import EXIT_CONFIGURATION, EXIT_FAILED, ConfigurationError
from user_service.postgres import migrations
from user_service.server.protocol import bounded
from user_service.settings import Settings
from user_service.web.health import Health

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75
# Beside a cluster's 15 s of sleep, 8 for requests and 3 for the pools, this fits a grace period of 30 s.
DRAIN_SECONDS: Final = 1.0
DRAIN_STEP_SECONDS: Final = 0.02


def serve(environ: Mapping[str, str]) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status. Raises ConfigurationError."""
    signal.signal(signal.SIGTERM, end)
    with database_of(environ) as settings:
        if sys.stderr.isatty() and "LOG_FORMAT" not in environ:
            settings = replace(settings, log_format="text")
        application = create_app(settings, environ=environ)
        if not settings.is_production:
            greet(settings)
        server = DrainingServer(uvicorn_config(application, settings), application.health)
        # uvicorn leaves so where it can't start, and has logged why.
        with suppress(SystemExit):
            server.run()
        if application.refused:
            return EXIT_CONFIGURATION
        return 0 if server.started and not application.health.broken else EXIT_FAILED


class DrainingServer(uvicorn.Server):
    """
    Tells clients to leave before it closes their connections.

    uvicorn closes an idle connection at once, and a request that is on its way into it is lost. Here every answer says
    `Connection: close` for up to `DRAIN_SECONDS` first, so that a busy client's next request goes to another pod.

    It also stops by itself where the API turns out not to load: whatever supervises it has to see that.
    """

    def __init__(self, config: uvicorn.Config, health: Health) -> None:
        super().__init__(config)
        self.health = health

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.health.broken

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for _ in range(round(DRAIN_SECONDS / DRAIN_STEP_SECONDS)):
            if not self.server_state.connections:
                break
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        await super().shutdown(sockets)


def end(number: int, _: FrameType | None) -> NoReturn:
    """uvicorn sends itself the signal again after its own stop: what is open around it has to be closed then."""
    raise SystemExit(0)


def uvicorn_config(application: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=bounded(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


@contextmanager
def database_of(environ: Mapping[str, str]) -> Iterator[Settings]:
    """The settings with a database: the one that is named, or an embedded one, migrated, while the block runs."""
    settings = Settings.load(environ)
    if settings.database_url is not None:
        yield settings
        return
    from user_service.postgres.embedded.server import EmbeddedPostgres, EmbeddedPostgresError

    try:
        embedded = EmbeddedPostgres.start(settings.data_dir.expanduser())
    except EmbeddedPostgresError as error:
        raise ConfigurationError(str(error)) from None
    try:
        if migrations.current(embedded.url) != migrations.head():
            migrations.upgrade(embedded.url)
        yield replace(settings, database_url=embedded.url)
    finally:
        embedded.stop()


def greet(settings: Settings) -> None:
    """Shows a developer the address, the key and a first request."""
    address = f"http://localhost:{settings.port}"
    # A key that somebody chose is theirs to show.
    made = not settings.internal_api_key
    key = load_api_keys(settings)[0] if made else "<a key of INTERNAL_API_KEY>"
    lines = [
        "",
        f"  User Service on {address}   docs: {address}/docs",
        f"  API key: {key}",
        "",
        "  Try it:",
        f"    curl -s {address}/api/v1/users -H 'X-API-Key: {key}' \\",
        '      -H \'Content-Type: application/json\' -d \'{"email": "ada@example.org", "given_name": "Ada"}\'',
        "",
    ]
    sys.stderr.write("\n".join(lines) + "\n")
