"""`user-service serve`: the service in this process, with an embedded PostgreSQL where DATABASE_URL is not set."""

import errno
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from user_service.app import create_app
from user_service.cli.database import open_database
from user_service.encryption.keyring import load_api_keys
from user_service.errors import EXIT_CONFIGURATION, EXIT_FAILED, CommandFailed
from user_service.server.run import run_server
from user_service.settings import Settings


def run(environ: Mapping[str, str]) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status. Raises ConfigurationError, CommandFailed."""
    signal.signal(signal.SIGTERM, exit_normally)
    check_port(Settings.load(environ))
    with open_database(environ) as settings:
        if sys.stderr.isatty() and "LOG_FORMAT" not in environ:
            settings = replace(settings, log_format="text")
        application = create_app(settings, environ=environ)
        if not settings.is_production:
            greet(settings)
        is_fine = run_server(application, settings)
        if application.refused:
            return EXIT_CONFIGURATION
        return 0 if is_fine else EXIT_FAILED


def check_port(settings: Settings) -> None:
    """Raises CommandFailed if another process listens on the address, before a database is started for nothing."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                # As uvicorn's own socket: connections of a process that has just ended do not count.
                if os.name == "posix":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        # Other faults of the address are uvicorn's to report.
        if error.errno == errno.EADDRINUSE:
            raise CommandFailed(
                f"Port {settings.port}: address already in use. Stop the process that listens there, "
                "or set PORT to another one."
            ) from None


def exit_normally(number: int, _: FrameType | None) -> NoReturn:
    """Unwinds the command, which stops an embedded database. uvicorn raises the signal again after its own stop."""
    raise SystemExit(0)


def greet(settings: Settings) -> None:
    """Shows a developer the address, the API key and a first request."""
    address = f"http://localhost:{settings.port}"
    # A generated key is shown; a configured one is a secret that may have come from elsewhere.
    is_generated = not settings.internal_api_key
    key = load_api_keys(settings)[0] if is_generated else "<a key of INTERNAL_API_KEY>"
    lines = [
        "",
        f"  User Service on {address}   docs: {address}/docs",
        f"  API key: {key}",
        "",
        "  Try it:",
        f"    curl -s {address}/api/v1/users -H 'X-API-Key: {key}' \\",
        '      -H \'Content-Type: application/json\' -d \'{"email": "alan@example.org", "given_name": "Alan"}\'',
        "",
    ]
    sys.stderr.write("\n".join(lines) + "\n")
