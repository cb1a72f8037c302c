"""Monthly partitions of the change log and of the feed, which are made ahead, and dropped when they have expired.

Months are those of UTC. A change of a month that has no partition goes to the default partition, so no write fails; the
next run makes the partition of that month and moves its rows there. A partition is attached and dropped under a lock
that is waited for at most LOCK_SECONDS, since statements on the table wait behind it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from user_service.errors import DatabaseUnavailable
from user_service.observability.logging import log

# All are partitioned by `changed_at`.
PARTITIONED: Final = ("user_changes", "feed")
MONTHS_AHEAD: Final = 3
LOCK_SECONDS: Final = 1
LOCK_ATTEMPTS: Final = 5
PAUSE_SECONDS: Final = 1.0
# Partitions are made and dropped by one session at a time.
PARTITIONS_LOCK: Final = 7_265_002

Fetch = Callable[..., Awaitable[Sequence[Any]]]

THIS_MONTH: Final = "date_trunc('month', now() AT TIME ZONE 'UTC')"
# The months that need a partition and have none, as `table` and `month`, a timestamp in UTC.
MISSING: Final = " UNION ALL ".join(
    f"""
    SELECT '{table}' AS parent, month FROM (
      SELECT {THIS_MONTH} + n * interval '1 month' AS month FROM generate_series(0, {MONTHS_AHEAD}) n
      UNION SELECT date_trunc('month', changed_at AT TIME ZONE 'UTC') FROM {table}_default
    ) wanted WHERE to_regclass('{table}' || to_char(month, '_YYYY_MM')) IS NULL
    """  # noqa: S608
    for table in PARTITIONED
)
# A partition is attached without a scan of other tables than the default partition. Its indexes are made by ATTACH.
CREATE_MISSING: Final = f"""
DO $$
DECLARE
  missing record;
  child text;
  low text;
  high text;
BEGIN
  PERFORM set_config('lock_timeout', '{LOCK_SECONDS}s', true);
  PERFORM pg_advisory_xact_lock({PARTITIONS_LOCK});
  FOR missing IN {MISSING} LOOP
    child := missing.parent || to_char(missing.month, '_YYYY_MM');
    low := to_char(missing.month, 'YYYY-MM-DD') || ' 00:00:00+00';
    high := to_char(missing.month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
    EXECUTE format('CREATE TABLE %I (LIKE %I)', child, missing.parent);
    IF missing.month <= {THIS_MONTH} THEN
      -- Changes are being written to the default partition, which will not take them any more: they wait here.
      EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', missing.parent);
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', missing.parent || '_default');
    EXECUTE format(
      'WITH moved AS (DELETE FROM %I WHERE changed_at >= %L AND changed_at < %L RETURNING *)'
      ' INSERT INTO %I SELECT * FROM moved',
      missing.parent || '_default', low, high, child
    );
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', missing.parent, child, low, high);
  END LOOP;
END $$
"""  # noqa: S608
# The months of which every change is older than $1 days, the oldest first.
EXPIRED: Final = f"""
SELECT month FROM (
  SELECT DISTINCT right(relname, 7) AS month FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
  WHERE inhparent = ANY (ARRAY['{"','".join(PARTITIONED)}']::regclass[]) AND relname ~ '_[0-9]{{4}}_[0-9]{{2}}$'
) months
WHERE to_date(month, 'YYYY_MM') + interval '1 month' <= now() AT TIME ZONE 'UTC' - $1::integer * interval '1 day'
ORDER BY month
"""  # noqa: S608


def drop_month(month: str) -> str:
    """The statement that drops the partitions of a month, such as `2026_01`; no_data_found where another session did.

    It notes the last position that the feed loses. The tables are locked before the row, as by the feed's sequencer.
    """
    names = [f"{table}_{month}" for table in PARTITIONED]
    return f"""
DO $$
DECLARE
  last record;
  change_id uuid;
BEGIN
  PERFORM set_config('lock_timeout', '{LOCK_SECONDS}s', true);
  PERFORM pg_advisory_xact_lock({PARTITIONS_LOCK});
  IF NOT EXISTS (SELECT FROM unnest(ARRAY['{"','".join(names)}']) AS name WHERE to_regclass(name) IS NOT NULL) THEN
    RAISE no_data_found;
  END IF;
  LOCK TABLE ONLY user_changes, ONLY feed IN ACCESS EXCLUSIVE MODE;
  IF to_regclass('feed_{month}') IS NOT NULL THEN
    SELECT * INTO last FROM feed_{month} ORDER BY position DESC LIMIT 1;
    SELECT event_id INTO change_id FROM user_changes c
    WHERE c.user_id = last.user_id AND c.version = last.version AND c.changed_at = last.changed_at;
    UPDATE feed_state
    SET floor = last.position, floor_id = coalesce(change_id, '00000000-0000-0000-0000-000000000000')
    WHERE floor < last.position;
  END IF;
  DROP TABLE IF EXISTS {", ".join(names)};
END $$
"""  # noqa: S608


def match_change(row: str) -> str:
    """The condition on `user_changes c` that finds the change of a row, by the primary key of its partition.

    The second line changes no result. It raises the planner's estimate for other indexes on `changed_at`, so that the
    primary key is chosen for an empty table too, whose plan may stay in use after the table has filled.
    """
    return f"""c.user_id = {row}.user_id AND c.version = {row}.version AND c.changed_at = {row}.changed_at
  AND (c.user_id, c.version) >= ({row}.user_id, {row}.version)"""


async def create_partitions(fetch: Fetch, *, attempts: int = LOCK_ATTEMPTS) -> None:
    """Makes the partitions of this month and the next three that are missing. Raises DatabaseUnavailable.

    A lock that is not free in time leaves them to the next run, and is logged.
    """
    if not await fetch(MISSING):
        return
    if not await run_with_lock(fetch, CREATE_MISSING, attempts=attempts):
        missing = [f"{table} {month:%Y-%m}" for table, month in await fetch(MISSING)]
        log.warning("partitions could not be made: their table is locked", extra={"partitions": missing})


async def drop_partitions(fetch: Fetch, *, days: int, attempts: int = LOCK_ATTEMPTS) -> tuple[int, list[str]]:
    """Drops months that ended more than `days` ago; returns their number, and the months that are locked.

    A month that another session drops meanwhile is not counted.
    """
    import asyncpg

    dropped, locked = 0, []
    for (month,) in await fetch(EXPIRED, days):
        with suppress(asyncpg.NoDataFoundError):
            if await run_with_lock(fetch, drop_month(month), attempts=attempts):
                dropped += 1
            else:
                locked.append(month.replace("_", "-"))
    return dropped, locked


async def run_with_lock(fetch: Fetch, statement: str, *, attempts: int) -> bool:
    """Runs a statement, and again after a pause when a lock was not free. False when it never was."""
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(PAUSE_SECONDS)
        try:
            await fetch(statement)
        except DatabaseUnavailable as error:
            if not is_lock_timeout(error):
                raise
        else:
            return True
    return False


def is_lock_timeout(error: DatabaseUnavailable) -> bool:
    import asyncpg

    return isinstance(error.__cause__, asyncpg.LockNotAvailableError)
