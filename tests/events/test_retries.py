"""Events that the sink fails to take or refuses: retries, drops, and what they delay."""

from pathlib import Path
from uuid import UUID

import pytest

from support.event_sink import Sink
from support.relay import attempts, connected, log_change, unstarted_relay
from support.settings import make_settings
from user_service.events.relay import MAX_REFUSALS
from user_service.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]


@pytest.fixture
def settings(database_url: str, tmp_path: Path, sink: Sink) -> Settings:
    return make_settings(database_url, tmp_path, k_sink=sink.url)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 409, 429, 500, 502, 503])
async def test_a_sink_in_trouble_is_tried_again_and_nothing_is_skipped(
    settings: Settings, sink: Sink, status: int
) -> None:
    sink.answer = lambda _: status
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        await log_change(connection, 1, 1)
        for _ in range(MAX_REFUSALS + 2):
            assert not await relay.drain(include_postponed=True)
        assert await connection.fetchval("SELECT retry_at > now() FROM outbox_partitions WHERE partition = 1")
        assert await relay.drain()
        assert len(sink.seen) == MAX_REFUSALS + 2
        sink.answer = lambda _: 200
        assert await relay.drain(include_postponed=True)
    assert len(sink.taken) == 1
    assert attempts(relay) == {"failed": MAX_REFUSALS + 2, "published": 1}


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
async def test_a_refused_event_is_dropped_after_its_attempts_and_others_get_through(
    settings: Settings, sink: Sink, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    sink.answer = lambda received: status if received.user_id == str(UUID(int=1)) and received.version == 1 else 202
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        refused = await log_change(connection, 1, 1)
        for user, version in ((1, 2), (17, 1), (17, 2), (33, 1), (33, 2)):
            await log_change(connection, user, version)
        while not await relay.drain(include_postponed=True):
            assert str(UUID(int=1)) not in sink.versions()
        assert (await relay.outbox.backlog())[0] == 0
    assert sink.versions() == {str(UUID(int=1)): [2], str(UUID(int=17)): [1, 2], str(UUID(int=33)): [1, 2]}
    assert len(sink.taken) == 5
    assert attempts(relay) == {"refused": MAX_REFUSALS, "dropped": 1, "published": 5}
    assert str(refused) in [getattr(record, "event", None) for record in caplog.records if "dropped" in record.message]


async def test_a_refused_event_stops_its_own_user_alone(settings: Settings, sink: Sink) -> None:
    sink.answer = lambda received: 400 if received.user_id == str(UUID(int=1)) and received.version == 1 else 202
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        await log_change(connection, 1, 1)
        assert not await relay.drain()
        await connection.execute("UPDATE outbox SET retry_at = now() + interval '1 hour'")
        for user in (1, 17):
            await log_change(connection, user, 2)
        assert await relay.drain()
        assert [(received.user_id, received.version) for received in sink.taken] == [(str(UUID(int=17)), 2)]
        sink.answer = lambda _: 202
        assert await relay.drain(include_postponed=True)
    assert sink.versions() == {str(UUID(int=1)): [1, 2], str(UUID(int=17)): [2]}


async def test_a_sink_that_refuses_everything_loses_one_event_of_a_partition_at_a_time(
    settings: Settings, sink: Sink
) -> None:
    sink.answer = lambda _: 400
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        for user in range(1, 16 * 40, 16):
            await log_change(connection, user, 1)
        while "dropped" not in attempts(relay):
            assert not await relay.drain(include_postponed=True)
            assert await connection.fetchval("SELECT retry_at > now() FROM outbox_partitions WHERE partition = 1")
        sink.answer = lambda _: 202
        assert await relay.drain(include_postponed=True)
    assert attempts(relay)["dropped"] == 1
    assert len(sink.taken) == 39


async def test_events_older_than_seven_days_are_dropped_with_a_count_and_a_log_line(
    settings: Settings, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(settings.database_url or "") as connection, unstarted_relay(settings) as relay:
        await log_change(connection, 1, 1, hours_old=24 * 7 + 1)
        await log_change(connection, 1, 2, hours_old=24 * 7 - 1)
        assert await relay.drain()
    assert [received.version for received in sink.taken] == [2]
    assert attempts(relay) == {"expired": 1, "published": 1}
    assert any("dropped" in record.message and record.events == 1 for record in caplog.records)  # type: ignore[attr-defined]


async def test_a_sink_that_can_not_be_reached_leaves_everything_waiting(database_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url, tmp_path, k_sink="http://127.0.0.1:9/")
    async with connected(database_url) as connection, unstarted_relay(settings) as relay:
        await log_change(connection, 1, 1)
        assert not await relay.drain()
        assert (await relay.outbox.backlog())[0] == 1
