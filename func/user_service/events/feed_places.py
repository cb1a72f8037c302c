"""The places of changes in the feed: which change has which position.

A row of `feed` has the changes of one row of the queue: its `position`, `user_id` and `version` are those of its last
change, and `user_ids` and `versions` those of all, or null if it has one. Positions have no gaps.
"""

from typing import Final

# The rows that have changes after {start}, up to the one that has the change at {end}. Ordered with a limit, so that
# they are read by the primary keys of the partitions, whatever the planner expects.
PLACES: Final = """
SELECT r.before + c.place AS position, c.user_id, c.version, r.changed_at FROM (
  SELECT *, position - coalesce(cardinality(user_ids), 1) AS before FROM feed
  WHERE position > {start} AND position <= coalesce(
    (SELECT e.position FROM feed e WHERE e.position >= {end} ORDER BY e.position LIMIT 1), {end}
  ) AND {condition}
  ORDER BY position LIMIT {limit}
) r CROSS JOIN LATERAL unnest(
  coalesce(r.user_ids, ARRAY[r.user_id]), coalesce(r.versions, ARRAY[r.version])
) WITH ORDINALITY AS c(user_id, version, place)
WHERE r.before + c.place > {start} AND r.before + c.place <= {end} ORDER BY 1 LIMIT {limit}
"""


def select_places(start: str, end: str, *, limit: str, condition: str = "true") -> str:
    """Selects `position`, `user_id`, `version` and `changed_at` of the first `limit` changes after one position, up to
    another, whose rows meet a condition.
    """
    return PLACES.format(start=start, end=end, limit=limit, condition=condition)
