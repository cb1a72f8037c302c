"""Relays that a test drains itself, and changes written straight into the change log and the outbox."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from user_service.events.outbox import Outbox
from user_service.events.relay import Relay
from user_service.events.sink import open_sink
from user_service.observability.metrics import Metrics
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings
from user_service.values.ids import new_id


@asynccontextmanager
async def unstarted_relay(settings: Settings, **options: Any) -> AsyncIterator[Relay]:
    """A relay that is not started: a test drains it."""
    metrics = Metrics()
    pool = ReadPool(settings, metrics, size=4)
    relay = Relay(Outbox(pool, **options), open_sink(settings), metrics)
    try:
        yield relay
    finally:
        await relay.stop()
        await pool.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


INSERT = """
WITH logged AS (
  INSERT INTO user_changes (user_id, version, type, status, changed, changed_at, event_id, actor, request_id,
    traceparent)
  VALUES ($1, $2, 'updated', 'active', '{locale}', now() - $3 * interval '1 hour', $4, 'test', 'r-1', $5)
  RETURNING user_id, version, changed_at
)
INSERT INTO outbox (partition, user_id, version, changed_at)
SELECT get_byte(uuid_send(user_id), 15) % 16, user_id, version, changed_at FROM logged
"""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def log_change(connection: Any, user: int, version: int, *, hours_old: int = 0) -> UUID:
    """A change and its row in the outbox; returns the event's id."""
    event_id = new_id()
    await connection.execute(INSERT, UUID(int=user), version, hours_old, event_id, TRACE)
    return event_id


def attempts(relay: Relay) -> dict[str, int]:
    return {labels[0]: int(value) for labels, value in relay.counts.values.items()}
