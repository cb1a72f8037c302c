"""How long rows are stored, and the statements that remove older ones in bounded batches. Several may run at once.

This module does not import SQLAlchemy, so that the relay and the command line start without it.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

# Responses to idempotent requests, replies to events, events that no sink accepts, imports without progress.
RESPONSES: Final = timedelta(hours=24)
REPLIES: Final = timedelta(days=7)
EVENTS: Final = timedelta(days=7)
IMPORTS: Final = timedelta(days=30)

BATCH: Final = 1000
PARTITIONS: Final = "SELECT lane FROM outbox_lanes ORDER BY lane"

Fetch = Callable[..., Awaitable[Sequence[Any]]]


def interval(span: timedelta) -> str:
    """A duration as an SQL literal."""
    return f"interval '{int(span.total_seconds())} seconds'"


def delete_batch(table: str, key: Collection[str], old: str, *, limit: int) -> str:
    """A WITH clause that deletes up to `limit` rows with the condition `old`, as `gone`; locked rows are skipped."""
    same = " AND ".join(f"{table}.{name} = old.{name}" for name in key)
    return (
        f"WITH old AS (SELECT {', '.join(key)} FROM {table} WHERE {old} LIMIT {limit} FOR UPDATE SKIP LOCKED),"  # noqa: S608
        f" gone AS (DELETE FROM {table} USING old WHERE {same} RETURNING 1)"
    )


OLD_RESPONSES: Final = "expires_at <= now(){} ORDER BY expires_at"
OLD_REPLIES: Final = f"processed_at < now() - {interval(REPLIES)} ORDER BY processed_at"
OLD_IMPORTS: Final = f"updated_at < now() - {interval(IMPORTS)}"
COUNT: Final = " SELECT count(*) FROM gone"

# The index of a partition starts with the oldest rows. The setting is not below EVENTS, so no event is removed that may
# still be sent.
DELETE_CHANGES: Final = (
    "WITH first AS (SELECT user_id, version, changed_at FROM user_changes WHERE lane = $1"  # noqa: S608
    f" ORDER BY txid, user_id, version LIMIT {BATCH} FOR UPDATE SKIP LOCKED),"
    " gone AS (DELETE FROM user_changes c USING first WHERE c.user_id = first.user_id AND c.version = first.version"
    " AND first.changed_at < now() - $2 * interval '1 day' RETURNING 1) SELECT count(*) FROM gone"
)
# In this order: the failures of an import are removed before the import.
DELETES: Final[Mapping[str, str]] = {
    "replies": delete_batch("inbox", ("source", "id"), OLD_REPLIES, limit=BATCH) + COUNT,
    "responses": delete_batch("idempotency_keys", ("id",), OLD_RESPONSES.format(""), limit=BATCH) + COUNT,
    "failed records": delete_batch(
        "import_failures",
        ("import_id", "record"),
        f"import_id IN (SELECT id FROM imports WHERE {OLD_IMPORTS})",  # noqa: S608
        limit=BATCH,
    )
    + COUNT,
    "imports": delete_batch(
        "imports",
        ("id",),
        f"{OLD_IMPORTS} AND NOT EXISTS (SELECT FROM import_failures WHERE import_id = imports.id)",
        limit=BATCH,
    )
    + COUNT,
}


async def prune(fetch: Fetch, *, audit_days: int) -> dict[str, int]:
    """Removes rows past their retention; returns the number by kind. `fetch` runs each statement in a transaction."""
    removed = {name: await delete_all(fetch, statement) for name, statement in DELETES.items()}
    partitions = await fetch(PARTITIONS)
    removed["changes"] = sum([await delete_all(fetch, DELETE_CHANGES, number, audit_days) for (number,) in partitions])
    return removed


async def delete_all(fetch: Fetch, statement: str, *arguments: object) -> int:
    """Repeats a statement until it deletes less than a whole batch."""
    total, removed = 0, BATCH
    while removed == BATCH:
        ((removed,),) = await fetch(statement, *arguments)
        total += removed
    return total
