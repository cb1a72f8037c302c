"""What can befall a PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from support.servers import PostgresServer

SERVICE_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'user-service'"


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """The server and all its processes stand still: connections are accepted and nothing is answered."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def restart_as_standby(server: PostgresServer) -> None:
    """The server comes back read-only, and is no standby of any primary until it is promoted."""
    server.stop()
    Path(server.cluster.folder, "standby.signal").touch()
    server.start()


def end_sessions(server: PostgresServer) -> None:
    server.execute(SERVICE_SESSIONS)
