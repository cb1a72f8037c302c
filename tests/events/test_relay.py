"""Events out: what the sink gets, in which order, whatever fails on the way."""

import asyncio
import re
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from support.api import USERS
from support.application import running
from support.event_sink import Received, Sink
from support.relay import TRACE, attempts, connected, log_change, unstarted_relay
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually
from user_service.events.outbox import BACKLOG, LEASE, READ
from user_service.postgres.migrations import upgrade
from user_service.postgres.pool import connect_options
from user_service.postgres.statements import text
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.users.schemas import UserUpdate

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]


@pytest.fixture
def settings(database_url: str, tmp_path: Path, sink: Sink) -> Settings:
    return make_settings(database_url, tmp_path, k_sink=sink.url)


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
        trail = [item["id"] for item in (await client.get(f"{path}/audit")).json()["items"]]
    user_id = path.rpartition("/")[2]
    types = [received.headers["ce-type"] for received in taken]
    assert types == [
        f"org.userservice.user.{kind}.v1"
        for kind in ("created", "updated", "status_changed", "deleted", "restored", "purged")
    ]
    assert [received.version for received in taken] == [1, 2, 3, 4, 5, 6]
    assert [received.id for received in taken] == trail
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
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        users = range(1, 41)
        for version in range(1, 6):
            for user in users:
                await log_change(connection, user, version)
        while not await relay.drain(include_postponed=True):
            pass
        assert (await relay.outbox.backlog())[0] == 0
    assert sink.versions() == {str(UUID(int=user)): [1, 2, 3, 4, 5] for user in users}
    assert len(refused) > 0
    assert attempts(relay)["failed"] == len(refused)


async def test_an_open_transaction_delays_no_event_of_others(
    settings: Settings, postgres: PostgresServer, sink: Sink
) -> None:
    """Neither one that has written a change itself, nor one of another database of the server."""
    url = settings.database_url or ""
    async with (
        connected(url) as slow,
        connected(postgres.url("postgres")) as elsewhere,
        unstarted_relay(settings) as relay,
    ):
        transaction, other = slow.transaction(), elsewhere.transaction()
        await transaction.start()
        await other.start()
        await elsewhere.execute("SELECT pg_current_xact_id()")
        first = await log_change(slow, 1, 1)
        async with connected(url) as quick:
            second = await log_change(quick, 17, 1)
        assert await relay.drain()
        assert [received.id for received in sink.taken] == [str(second)]
        await transaction.commit()
        assert await relay.drain()
        await other.rollback()
    assert [received.id for received in sink.taken] == [str(second), str(first)]


async def test_a_commit_while_events_are_posted_is_not_passed_over(settings: Settings, sink: Sink) -> None:
    url = settings.database_url or ""
    async with connected(url) as open_one, connected(url) as other, unstarted_relay(settings) as relay:
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
    assert str(late) in [received.id for received in sink.taken]


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
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        assert await relay.drain()
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
    assert [received.version for received in sink.taken] == [1, 2, 3]


async def test_replicas_share_the_partitions_and_post_nothing_twice(settings: Settings, sink: Sink) -> None:
    async with connected(settings.database_url or "") as connection:
        for user in range(1, 65):
            for version in (1, 2):
                await log_change(connection, user, version)
    async with unstarted_relay(settings) as one, unstarted_relay(settings) as two, unstarted_relay(settings) as three:
        await asyncio.gather(one.drain(), two.drain(), three.drain())
        shares = [attempts(relay).get("published", 0) for relay in (one, two, three)]
    assert sum(shares) == len(sink.taken) == 128
    assert all(shares)
    assert sink.versions() == {str(UUID(int=user)): [1, 2] for user in range(1, 65)}


async def test_a_partition_whose_owner_died_is_taken_over_when_its_lease_is_over(
    settings: Settings, sink: Sink
) -> None:
    async with connected(settings.database_url or "") as connection:
        await log_change(connection, 1, 1)
    async with unstarted_relay(settings, lease_seconds=2) as dead, unstarted_relay(settings) as other:
        await other.outbox.backlog()  # opens its connections before the lease begins
        assert len(await dead.outbox.lease(4, skipped=())) == 1
        assert await other.drain()
        assert sink.taken == []

        async def taken_over() -> bool:
            await other.drain()
            return len(sink.taken) == 1

        await eventually(taken_over)


async def test_a_replica_that_lost_a_partition_deletes_what_it_posted_and_stops(settings: Settings) -> None:
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as loser:
        for version in (1, 2):
            await log_change(connection, 1, version)
        (lease,) = await loser.outbox.lease(1, skipped=())
        change, _ = await loser.outbox.read(lease)
        await connection.execute("UPDATE outbox_partitions SET owner = gen_random_uuid() WHERE partition = 1")
        assert not await loser.outbox.settle(lease, done=[change.seq], refused={})
        assert [row[0] for row in await connection.fetch("SELECT version FROM outbox")] == [2]


async def test_a_relay_that_is_killed_between_post_and_delete_posts_again_under_the_same_id(
    settings: Settings, sink: Sink
) -> None:
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings, lease_seconds=2) as dead:
        event_id = await log_change(connection, 1, 1)
        (lease,) = await dead.outbox.lease(1, skipped=())
        (change,) = await dead.outbox.read(lease)
        await dead.sink.post(change)
        async with unstarted_relay(settings) as other:

            async def posted_again() -> bool:
                await other.drain()
                return len(sink.taken) == 2

            await eventually(posted_again)
    assert [received.id for received in sink.taken] == [str(event_id)] * 2


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
            shown = (await client.get("/metrics")).text
            return "user_outbox_pending 0.0" in shown and 'events_published_total{outcome="published"} 3.0' in shown

        await eventually(drained)


FILL = """
INSERT INTO user_changes (user_id, version, type, status, changed, changed_at, actor, request_id, traceparent, event_id)
SELECT md5(n::text)::uuid, 1, 'created', 'active', '{}', now(), '', '', '', gen_random_uuid()
FROM generate_series(1, 50000) n;
INSERT INTO outbox (partition, user_id, version, changed_at)
SELECT get_byte(uuid_send(user_id), 15) % 2, user_id, version, changed_at FROM user_changes
"""


@pytest.mark.one_server
async def test_the_index_finds_what_waits_also_by_a_plan_from_when_the_outbox_was_empty(settings: Settings) -> None:
    connection = await asyncpg.connect(**connect_options(settings))
    await connection.execute("VACUUM ANALYZE outbox, user_changes")
    statements = {"read": (READ, "(1::smallint)"), "count": (BACKLOG, "")}
    for name, (statement, argument) in statements.items():
        await connection.execute(f"PREPARE {name} AS {statement}")
        for _ in range(6):
            await connection.fetch(f"EXECUTE {name}{argument}")
    await connection.execute(FILL)
    plans = [
        "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE {name}{argument}"))
        for name, (_, argument) in statements.items()
    ]
    plan = await connection.fetch("EXPLAIN " + LEASE, UUID(int=1), 30.0, 4, [])
    await connection.close()
    for shown in (*plans, "\n".join(row[0] for row in plan)):
        assert "Index Scan using pk_outbox on outbox o" in shown
        assert "Seq Scan on outbox o" not in shown
        assert "Seq Scan on user_changes" not in shown
    # Each change by its key, not by a scan of an index.
    assert "Join Filter" not in plans[0]
    assert "(user_id = o.user_id) AND (version = o.version) AND (changed_at = o.changed_at)" in plans[0]


async def test_the_source_of_events_and_replies_can_be_set(database_url: str, tmp_path: Path, sink: Sink) -> None:
    settings = make_settings(database_url, tmp_path, k_sink=sink.url, event_source="//staging.example.org/users")
    async with running(settings) as client:
        await client.make()
        (received,) = await asyncio.to_thread(sink.wait_for, 1)
        headers = {"specversion": "1.0", "id": "7", "source": "/tests", "type": "org.userservice.batch.find.v1"}
        reply = await client.post(
            "/events", json={"ids": []}, headers={f"ce-{name}": value for name, value in headers.items()}
        )
    assert received.headers["ce-source"] == "//staging.example.org/users"
    assert reply.headers["ce-source"] == "//staging.example.org/users"
