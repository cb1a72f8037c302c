"""How much of everything a run measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    cold_rounds: int
    load_rounds: int
    load_seconds: int
    hot_users: int
    listed_users: int
    page_rounds: int
    warm_requests: int
    grown_requests: int
    batches: int
    batch_rounds: int
    feed_changes: int
    feed_seconds: int
    synced_users: int


FULL = Plan(
    cold_rounds=15,
    load_rounds=7,
    load_seconds=2,
    hot_users=1_000,
    listed_users=1_000_000,
    page_rounds=300,
    warm_requests=200_000,
    grown_requests=800_000,
    batches=30,
    batch_rounds=7,
    feed_changes=100_000,
    feed_seconds=20,
    synced_users=20_000,
)
QUICK = Plan(
    cold_rounds=5,
    load_rounds=3,
    load_seconds=1,
    hot_users=200,
    listed_users=20_000,
    page_rounds=100,
    warm_requests=100_000,
    grown_requests=100_000,
    batches=12,
    batch_rounds=3,
    feed_changes=10_000,
    feed_seconds=5,
    synced_users=2_000,
)
