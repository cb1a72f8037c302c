"""Pools of connections without a service around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.settings import make_settings
from user_service.observability.metrics import Metrics
from user_service.postgres.connections import Connections
from user_service.postgres.connector import Connector
from user_service.postgres.pool import connect_options


@asynccontextmanager
async def open_connections(url: str, *, size: int = 3, writes: bool = True) -> AsyncIterator[Connections]:
    """A pool over the database of a URI; `connections.connector` opens its connections."""
    settings = make_settings(url, Path("/nowhere"))
    connector = Connector(lambda: connect_options(settings), Metrics(), writes=writes)
    connections = Connections(connector, size=size)
    yield connections
    await connections.close(seconds=60)
    await connector.close()
