"""How long things are kept, in one place, and how what is older goes: in bounded batches, by any number at once.

Nothing here imports SQLAlchemy, so that the relay and the command line can use it.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

# Answers to requests with a key, replies to events, events that nobody takes, imports that nobody moves.
ANSWERS: Final = timedelta(hours=24)
REPLIES: Final = timedelta(days=7)
EVENTS: Final = timedelta(days=7)
IMPORTS: Final = timedelta(days=30)

BATCH: Final = 1000
LANES: Final = "SELECT lane FROM outbox_lanes ORDER BY lane"

Fetch = Callable[..., Awaitable[Sequence[Any]]]


def interval(span: timedelta) -> str:
    """A span as SQL writes it."""
    return f"interval '{int(span.total_seconds())} seconds'"


def removal(table: str, key: Collection[str], old: str, *, limit: int) -> str:
    """The beginning of a statement that removes a batch of what `old` says, as `gone`; rows that are held stay."""
    same = " AND ".join(f"{table}.{name} = old.{name}" for name in key)
    return (
        f"WITH old AS (SELECT {', '.join(key)} FROM {table} WHERE {old} LIMIT {limit} FOR UPDATE SKIP LOCKED),"  # noqa: S608
        f" gone AS (DELETE FROM {table} USING old WHERE {same} RETURNING 1)"
    )


OLD_ANSWERS: Final = "expires_at <= now(){} ORDER BY expires_at"
OLD_REPLIES: Final = f"processed_at < now() - {interval(REPLIES)} ORDER BY processed_at"
OLD_IMPORTS: Final = f"updated_at < now() - {interval(IMPORTS)}"
COUNT: Final = " SELECT count(*) FROM gone"

# What is oldest in a lane stands first in its index. Everything that is removed is older than the events that wait,
# since the setting is not below EVENTS: what was not sent by then is not sent any more.
CHANGES: Final = (
    "WITH first AS (SELECT user_id, version, changed_at FROM user_changes WHERE lane = $1"  # noqa: S608
    f" ORDER BY txid, user_id, version LIMIT {BATCH} FOR UPDATE SKIP LOCKED),"
    " gone AS (DELETE FROM user_changes c USING first WHERE c.user_id = first.user_id AND c.version = first.version"
    " AND first.changed_at < now() - $2 * interval '1 day' RETURNING 1) SELECT count(*) FROM gone"
)
# By name, in this order: the failures of an import go before it does.
STATEMENTS: Final[Mapping[str, str]] = {
    "replies": removal("inbox", ("source", "id"), OLD_REPLIES, limit=BATCH) + COUNT,
    "answers": removal("idempotency_keys", ("id",), OLD_ANSWERS.format(""), limit=BATCH) + COUNT,
    "failed records": removal(
        "import_failures",
        ("import_id", "record"),
        f"import_id IN (SELECT id FROM imports WHERE {OLD_IMPORTS})",  # noqa: S608
        limit=BATCH,
    )
    + COUNT,
    "imports": removal(
        "imports",
        ("id",),
        f"{OLD_IMPORTS} AND NOT EXISTS (SELECT FROM import_failures WHERE import_id = imports.id)",
        limit=BATCH,
    )
    + COUNT,
}


async def prune(fetch: Fetch, *, audit_days: int) -> dict[str, int]:
    """Removes what is past its time; how many rows of each kind. `fetch` runs each statement by itself."""
    removed = {name: await drain(fetch, statement) for name, statement in STATEMENTS.items()}
    removed["changes"] = sum([await drain(fetch, CHANGES, lane, audit_days) for (lane,) in await fetch(LANES)])
    return removed


async def drain(fetch: Fetch, statement: str, *arguments: object) -> int:
    """Runs a removal until it finds less than a whole batch."""
    total, removed = 0, BATCH
    while removed == BATCH:
        ((removed,),) = await fetch(statement, *arguments)
        total += removed
    return total
