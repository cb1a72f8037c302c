"""How long rows are stored, and the statements that remove older ones in bounded batches. Several may run at once.

This module does not import SQLAlchemy, so that the relay and the command line start without it.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from user_service.errors import CommandFailed
from user_service.postgres.partitions import Fetch, create_partitions, drop_partitions

# Responses to idempotent requests, replies to events, events that no sink accepts, imports without progress.
RESPONSES: Final = timedelta(hours=24)
REPLIES: Final = timedelta(days=7)
EVENTS: Final = timedelta(days=7)
IMPORTS: Final = timedelta(days=30)

BATCH: Final = 1000
PARTITIONS: Final = "SELECT partition, now() FROM outbox_partitions ORDER BY partition"


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

# The index of a partition starts with the oldest rows. Rows that the relay has locked are waited for.
DELETE_EVENTS: Final = (
    "WITH first AS (SELECT seq, changed_at FROM outbox WHERE partition = $1"  # noqa: S608
    f" ORDER BY seq LIMIT {BATCH} FOR UPDATE),"
    " gone AS (DELETE FROM outbox o USING first WHERE o.partition = $1 AND o.seq = first.seq"
    f" AND first.changed_at < $2::timestamptz - {interval(EVENTS)} RETURNING 1) SELECT count(*) FROM gone"
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
    """Removes rows past their retention; returns the number by kind. `fetch` runs each statement in a transaction.

    The change log loses whole months. Raises CommandFailed when one is locked; the rest is removed.
    """
    removed = {name: await delete_all(fetch, statement) for name, statement in DELETES.items()}
    partitions = await fetch(PARTITIONS)
    removed["events"] = sum([await delete_all(fetch, DELETE_EVENTS, number, now) for number, now in partitions])
    await create_partitions(fetch)
    # The setting is not below EVENTS, and the events are removed first, so that none loses its change.
    removed["months of changes"], locked = await drop_partitions(fetch, days=audit_days)
    if locked:
        raise CommandFailed(
            f"The change log of {', '.join(locked)} could not be removed: a session, such as a backup, kept the table "
            "locked. Everything else was removed. Run `user-service prune` again when that session has ended."
        )
    return removed


async def delete_all(fetch: Fetch, statement: str, *arguments: object) -> int:
    """Repeats a statement until it deletes less than a whole batch."""
    total, removed = 0, BATCH
    while removed == BATCH:
        ((removed,),) = await fetch(statement, *arguments)
        total += removed
    return total
