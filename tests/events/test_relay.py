"""Events out: what the sink gets, in which order, whatever fails on the way."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from support.api import USERS
from support.application import running
from support.event_sink import Received, Sink
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually
from user_service.events.outbox import READ, Outbox
from user_service.events.relay import MAX_REFUSALS, Relay
from user_service.events.sink import open_sink
from user_service.observability.metrics import Metrics
from user_service.postgres.migrations import upgrade
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.users.schemas import UserUpdate

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(database_url: str, tmp_path: Path, sink: Sink) -> Settings:
    return make_settings(database_url, tmp_path, k_sink=sink.url)


@asynccontextmanager
async def relay_of(settings: Settings, **options: Any) -> AsyncIterator[Relay]:
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
INSERT INTO user_changes (user_id, version, type, status, changed, changed_at, lane, actor, request_id, traceparent)
VALUES ($1, $2, 'updated', 'active', '{locale}', now() - $3 * interval '1 hour', $4, 'test', 'r-1', $5)
"""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def log_change(connection: Any, user: int, version: int, *, hours_old: int = 0, lane: int | None = None) -> UUID:
    user_id = UUID(int=user)
    await connection.execute(INSERT, user_id, version, hours_old, user % 16 if lane is None else lane, TRACE)
    return user_id


def counts(relay: Relay) -> dict[str, int]:
    return {labels[0]: int(value) for labels, value in relay.counts.values.items()}


async def test_every_change_of_a_user_is_an_event_with_names_of_fields_only(settings: Settings, sink: Sink) -> None:
    async with running(settings) as client:
        traced = {"traceparent": TRACE}
        path = await client.make(given_name="Ada", external_id="row-1")
        await client.patch(
            path, json={"locale": "en-GB"}, headers={"content-type": "application/merge-patch+json", **traced}
        )
        await client.post(f"{path}/suspend")
        await client.delete(path)
        await client.post(f"{path}/restore")
        await client.delete(path, params={"purge": "true"})
        taken = await asyncio.to_thread(sink.wait_for, 6)
    user_id = path.rpartition("/")[2]
    types = [received.headers["ce-type"] for received in taken]
    assert types == [
        f"org.userservice.user.{kind}.v1"
        for kind in ("created", "updated", "status_changed", "deleted", "restored", "purged")
    ]
    assert [received.id for received in taken] == [f"{user_id}-{version}" for version in range(1, 7)]
    updated = taken[1]
    assert updated.data == {
        "id": user_id,
        "version": 2,
        "status": "active",
        "changed": ["locale"],
        "actor": updated.data["actor"],
    }
    assert re.fullmatch("api-key:[0-9a-f]{8}", updated.data["actor"])
    headers = updated.headers
    assert headers["content-type"] == "application/json"
    assert (headers["ce-specversion"], headers["ce-source"], headers["ce-subject"]) == ("1.0", "/user-service", user_id)
    assert (headers["ce-sequence"], headers["ce-partitionkey"]) == ("2", user_id)
    assert headers["ce-traceparent"] == headers["traceparent"]
    assert headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert datetime.fromisoformat(headers["ce-time"]).tzinfo is not None
    assert not any(b"Ada" in received.body or "Ada" in str(received.headers) for received in taken)


async def test_extensions_of_the_platform_are_added_and_win(database_url: str, tmp_path: Path, sink: Sink) -> None:
    overrides = {"partitionkey": "everybody", "cluster": "blue / 1 \u00e9"}
    settings = make_settings(database_url, tmp_path, event_sink_url=sink.url, k_ce_overrides=overrides)
    async with running(settings) as client:
        await client.make()
        (received,) = await asyncio.to_thread(sink.wait_for, 1)
    assert received.headers["ce-partitionkey"] == "everybody"
    assert received.headers["ce-cluster"] == "blue%20/%201%20%C3%A9"


async def test_what_was_committed_before_the_sink_was_named_is_relayed_at_the_start(
    database_url: str, tmp_path: Path, sink: Sink
) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        paths = [await client.make() for _ in range(3)]
        assert client.resources.relay is None
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)):
        taken = await asyncio.to_thread(sink.wait_for, 3)
    assert {received.user_id for received in taken} == {path.rpartition("/")[2] for path in paths}


async def test_nothing_overtakes_in_a_user_and_nothing_is_lost_while_the_sink_fails_at_random(
    settings: Settings, sink: Sink
) -> None:
    refused: dict[str, int] = {}

    def every_third_fails_once(received: Received) -> int:
        if int(received.user_id[-1], 16) % 3 == 0 and received.id not in refused:
            refused[received.id] = 503
            return 503
        return 200

    sink.answer = every_third_fails_once
    async with connected(settings.database_url or "") as connection, relay_of(settings) as relay:
        users = range(1, 41)
        for version in range(1, 6):
            for user in users:
                await log_change(connection, user, version)
        while not await relay.drain(include_postponed=True):
            pass
        assert (await relay.outbox.backlog())[0] == 0
    assert sink.versions() == {str(UUID(int=user)): [1, 2, 3, 4, 5] for user in users}
    assert len(refused) > 0
    assert counts(relay)["failed"] == len(refused)


async def test_a_later_number_that_commits_first_does_not_hide_an_earlier_one(settings: Settings, sink: Sink) -> None:
    url = settings.database_url or ""
    async with connected(url) as slow, connected(url) as quick, relay_of(settings) as relay:
        transaction = slow.transaction()
        await transaction.start()
        first = await log_change(slow, 1, 1)
        second = await log_change(quick, 17, 1)
        assert await relay.drain()
        assert sink.taken == []
        await transaction.commit()
        assert await relay.drain()
    # Different users: their events are posted side by side.
    assert {received.user_id for received in sink.taken} == {str(first), str(second)}


async def test_a_commit_while_events_are_posted_is_not_passed_over(settings: Settings, sink: Sink) -> None:
    url = settings.database_url or ""
    async with connected(url) as open_one, connected(url) as other, relay_of(settings) as relay:
        await log_change(other, 1, 1)
        transaction = open_one.transaction()
        await log_change(other, 33, 1)
        await transaction.start()
        late = await log_change(open_one, 17, 1)
        await log_change(other, 49, 1)
        loop = asyncio.get_running_loop()

        def commit_meanwhile(received: Received) -> int:
            if received.user_id == str(UUID(int=33)):
                asyncio.run_coroutine_threadsafe(transaction.commit(), loop).result(10)
            return 200

        sink.answer = commit_meanwhile
        assert await relay.drain()
    assert sorted(received.user_id for received in sink.taken) == sorted(
        str(UUID(int=user)) for user in (1, 17, 33, 49)
    )
    assert str(late) in [received.user_id for received in sink.taken]


async def test_versions_stay_in_order_when_an_older_transaction_writes_the_later_version(
    settings: Settings, sink: Sink
) -> None:
    """The older transaction has its number from another write before it waits for the user that the newer one has."""
    async with running(make_settings(settings.database_url, settings.data_dir)) as client:
        path = await client.make()
        user_id = UUID(path.rpartition("/")[2])
        database = client.resources.open_services().database
        origin = Origin("test", "r-1", TRACE)
        async with database.unit_of_work(origin) as older:
            await older.repository.session.execute(text("SELECT pg_current_xact_id()"))
            async with database.unit_of_work(origin) as newer:
                await newer.update([(user_id, None, UserUpdate(locale="en-GB"))])
            await older.update([(user_id, None, UserUpdate(locale="de-DE"))])
    async with connected(settings.database_url or "") as connection, relay_of(settings) as relay:
        numbers = await connection.fetch("SELECT txid FROM user_changes ORDER BY version")
        assert [row[0] for row in numbers] == sorted(row[0] for row in numbers)
        assert await relay.drain()
    assert [received.version for received in sink.taken] == [1, 2, 3]


async def test_replicas_share_the_partitions_and_post_nothing_twice(settings: Settings, sink: Sink) -> None:
    async with connected(settings.database_url or "") as connection:
        for user in range(1, 65):
            for version in (1, 2):
                await log_change(connection, user, version)
    async with relay_of(settings) as one, relay_of(settings) as two, relay_of(settings) as three:
        await asyncio.gather(one.drain(), two.drain(), three.drain())
        shares = [counts(relay).get("published", 0) for relay in (one, two, three)]
    assert sum(shares) == len(sink.taken) == 128
    assert all(shares)
    assert sink.versions() == {str(UUID(int=user)): [1, 2] for user in range(1, 65)}


async def test_a_partition_whose_owner_died_is_taken_over_when_its_lease_is_over(
    settings: Settings, sink: Sink
) -> None:
    async with connected(settings.database_url or "") as connection:
        await log_change(connection, 1, 1)
    async with relay_of(settings, lease_seconds=2) as dead, relay_of(settings) as other:
        await other.outbox.backlog()  # opens its connections before the lease begins
        assert len(await dead.outbox.lease(4, skipped=())) == 1
        assert await other.drain()
        assert sink.taken == []

        async def taken_over() -> bool:
            await other.drain()
            return len(sink.taken) == 1

        await eventually(taken_over)


async def test_a_replica_that_lost_a_partition_can_not_move_its_cursor(settings: Settings) -> None:
    async with connected(settings.database_url or "") as connection:
        await log_change(connection, 1, 1)
        async with relay_of(settings) as loser:
            (lease,) = await loser.outbox.lease(1, skipped=())
            (change,) = await loser.outbox.read(lease, 10)
            await connection.execute("UPDATE outbox_lanes SET owner = gen_random_uuid() WHERE lane = 1")
            assert not await loser.outbox.move_cursor(lease, change.position)
        assert await connection.fetchval("SELECT txid FROM outbox_lanes WHERE lane = 1") == 0


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 409, 429, 500, 502, 503])
async def test_a_sink_in_trouble_is_tried_again_and_nothing_is_skipped(
    settings: Settings, sink: Sink, status: int
) -> None:
    sink.answer = lambda _: status
    async with connected(settings.database_url or "") as connection, relay_of(settings) as relay:
        await log_change(connection, 1, 1)
        for _ in range(MAX_REFUSALS + 2):
            assert not await relay.drain(include_postponed=True)
        assert await connection.fetchval("SELECT retry_at > now() FROM outbox_lanes WHERE lane = 1")
        assert await relay.drain()
        assert len(sink.seen) == MAX_REFUSALS + 2
        sink.answer = lambda _: 200
        assert await relay.drain(include_postponed=True)
    assert len(sink.taken) == 1
    assert counts(relay) == {"failed": MAX_REFUSALS + 2, "published": 1}


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
async def test_a_refused_event_is_dropped_after_its_attempts_and_others_get_through(
    settings: Settings, sink: Sink, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    sink.answer = lambda received: status if received.user_id == str(UUID(int=1)) and received.version == 1 else 202
    async with connected(settings.database_url or "") as connection, relay_of(settings) as relay:
        for user in (1, 17, 33):
            for version in (1, 2):
                await log_change(connection, user, version)
        for _ in range(MAX_REFUSALS - 1):
            assert not await relay.drain(include_postponed=True)
            assert str(UUID(int=1)) not in sink.versions()
        assert await relay.drain(include_postponed=True)
        assert (await relay.outbox.backlog())[0] == 0
    assert sink.versions() == {str(UUID(int=1)): [2], str(UUID(int=17)): [1, 2], str(UUID(int=33)): [1, 2]}
    assert len(sink.taken) == 5
    assert counts(relay) == {"refused": MAX_REFUSALS, "dropped": 1, "published": 5}
    assert f"{UUID(int=1)}-1" in [getattr(record, "event", None) for record in caplog.records]


async def test_events_older_than_seven_days_are_dropped_with_a_count_and_a_log_line(
    settings: Settings, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(settings.database_url or "") as connection, relay_of(settings) as relay:
        await log_change(connection, 1, 1, hours_old=24 * 7 + 1)
        await log_change(connection, 1, 2, hours_old=24 * 7 - 1)
        assert await relay.drain()
    assert [received.version for received in sink.taken] == [2]
    assert counts(relay) == {"expired": 1, "published": 1}
    assert any("dropped" in record.message and record.events == 1 for record in caplog.records)  # type: ignore[attr-defined]


async def test_a_sink_that_can_not_be_reached_leaves_everything_waiting(database_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url, tmp_path, k_sink="http://127.0.0.1:9/")
    async with connected(database_url) as connection, relay_of(settings) as relay:
        await log_change(connection, 1, 1)
        assert not await relay.drain()
        assert (await relay.outbox.backlog())[0] == 1


async def test_the_relay_goes_on_after_the_database_was_away(
    own_postgres: PostgresServer, tmp_path: Path, sink: Sink
) -> None:
    url = own_postgres.create_database("away")
    await asyncio.to_thread(upgrade, url)
    async with running(make_settings(url, tmp_path, k_sink=sink.url)) as client:
        await client.make()
        await asyncio.to_thread(sink.wait_for, 1)
        await asyncio.to_thread(own_postgres.restart)

        async def made() -> bool:
            return (await client.post(USERS, json={"email": "second@example.org"})).status_code in {201, 409}

        await eventually(made)
        await asyncio.to_thread(sink.wait_for, 2)


async def test_metrics_tell_what_waits_and_what_left(database_url: str, tmp_path: Path, sink: Sink) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        for _ in range(3):
            await client.make()
        shown = (await client.get("/metrics")).text
        assert "user_outbox_pending 3.0" in shown
        oldest = re.search(r"^user_outbox_oldest_seconds (\S+)$", shown, re.MULTILINE)
        assert oldest is not None
        assert float(oldest[1]) > 0
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        await asyncio.to_thread(sink.wait_for, 3)

        async def drained() -> bool:
            client.resources.backlog.refreshed_at = -1e9
            shown = (await client.get("/metrics")).text
            return "user_outbox_pending 0.0" in shown and 'events_published_total{outcome="published"} 3.0' in shown

        await eventually(drained)


async def test_the_reads_of_the_relay_walk_the_index_in_its_order(settings: Settings) -> None:
    async with connected(settings.database_url or "") as connection:
        await connection.execute(
            "INSERT INTO user_changes (user_id, version, type, status, changed, changed_at, lane, actor, request_id,"
            " traceparent, txid) SELECT gen_random_uuid(), 1, 'created', 'active', '{}', now(), n % 2, '', '', '', n"
            " FROM generate_series(1, 100000) n"
        )
        await connection.execute("ANALYZE user_changes")
        plan = await connection.fetch("EXPLAIN " + READ.replace("$5", "100"), 1, 10_000, UUID(int=0), 0)
    shown = "\n".join(row[0] for row in plan)
    assert "Index Scan using ix_user_changes_lane_txid" in shown
    assert "Sort" not in shown
