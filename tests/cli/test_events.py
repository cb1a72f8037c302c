"""`user-service events replay`: events of past changes, and dead letters, are posted again as they were."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from standardwebhooks import Webhook

from support.api import USERS
from support.application import running
from support.changes import FEED
from support.event_sink import Received, Sink
from support.process import RunCommand, command, serving
from support.settings import make_settings
from user_service.events import replay
from user_service.events.replay import read_dead_letters

EVENT = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/orders",
    "type": "org.userservice.batch.create.v1",
    "time": "2026-01-31T12:00:00Z",
    "data": {"items": [{"data": {"email": "ada@example.org"}}]},
}
DEAD = {**EVENT, "knativeerrorcode": "400", "knativeerrordest": "http://users/events", "knativebrokerttl": "1"}


async def make_history(database_url: str, folder: Path) -> list[dict[str, Any]]:
    """Five users with three changes each; the items of the feed."""
    async with running(make_settings(database_url, folder)) as client:
        paths = [await client.make() for _ in range(5)]
        for path in paths:
            await client.patch(path, json={"locale": "fr"})
        for path in paths:
            await client.delete(path)
        items: list[dict[str, Any]] = (await client.get(FEED, params={"limit": 1000})).json()["items"]
    assert len(items) == 15
    return items


def sent(received: list[Received]) -> list[tuple[str, str, int, str]]:
    """Type, user, version and id of events."""
    return [(r.headers["ce-type"], r.user_id, r.version, r.id) for r in received]


def expected(items: list[dict[str, Any]]) -> list[tuple[str, str, int, str]]:
    return [(f"org.userservice.user.{item['type']}.v1", item["user_id"], item["version"], item["id"]) for item in items]


@pytest.mark.distributed
async def test_events_are_posted_again_as_they_were_in_each_users_order(
    database_url: str, tmp_path: Path, sink: Sink
) -> None:
    items = await make_history(database_url, tmp_path)
    environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": sink.url}
    first = command(tmp_path, "relay", **environ)
    delivered, sink.taken = sink.taken, []

    result = command(tmp_path, "events", "replay", "--since", "2020-01-01T00:00:00Z", **environ)

    assert first.returncode == 0
    assert (result.returncode, result.stdout) == (0, "15 events published, 0 refused\n"), result.stderr
    assert sorted(sent(sink.taken)) == sorted(sent(delivered)) == sorted(expected(items))
    assert all(versions == [1, 2, 3] for versions in sink.versions().values())
    before = {received.id: received for received in delivered}
    for received in sink.taken:
        assert received.body == before[received.id].body
        names = [name for name in received.headers if name.startswith("ce-")]
        assert {n: received.headers[n] for n in names} == {n: before[received.id].headers[n] for n in names}


async def test_time_and_type_select(
    database_url: str, tmp_path: Path, sink: Sink, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await make_history(database_url, tmp_path)
    connection = await asyncpg.connect(database_url)
    for table in ("feed", "user_changes"):
        await connection.execute(f"UPDATE {table} SET changed_at = '2026-01-15' WHERE version = 1")
    await connection.close()
    environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": sink.url}
    old = [item for item in items if item["version"] == 1]
    deleted = [item for item in items if item["type"] == "deleted"]
    since = ["events", "replay", "--since"]
    monkeypatch.setattr(replay, "SCANNED_POSITIONS", 2)

    for arguments, chosen in (
        ([*since, "2026-01-15T00:00:00Z", "--until", "2026-01-15T00:00:01Z"], old),
        ([*since, "2026-01-14T23:00:00-01:00", "--until", "2026-01-15T00:00:00Z"], []),
        ([*since, "2026-01-15T00:00:01+00:00"], [item for item in items if item["version"] > 1]),
        ([*since, "2020-01-01T00:00:00Z", "--type", "deleted"], deleted),
        (
            [*since, "2020-01-01T00:00:00Z", "--type", "org.userservice.user.created.v1", "--type", "deleted"],
            old + deleted,
        ),
    ):
        sink.taken = []
        assert await asyncio.to_thread(run, *arguments, "--dry-run", **environ) == (
            0,
            f"{len(chosen)} events would be posted\n",
        )
        assert sink.seen == sink.taken == []
        assert await asyncio.to_thread(run, *arguments, **environ) == (
            0,
            f"{len(chosen)} events published, 0 refused\n",
        )
        assert sorted(sent(sink.taken)) == sorted(expected(chosen))
        sink.seen = []


async def test_a_failing_sink_stops_it_and_it_continues_where_it_was(
    database_url: str, tmp_path: Path, sink: Sink, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await make_history(database_url, tmp_path)
    monkeypatch.setattr(replay, "PAGE", replay.PAGE.replace("LIMIT 1000", "LIMIT 4"))
    monkeypatch.setattr(replay, "PAGE_CHANGES", 4)
    monkeypatch.setattr(replay, "retry_delay", lambda _: 0.0)
    arguments = ["events", "replay", "--since", "2020-01-01T00:00:00Z"]
    environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": sink.url}
    sink.answer = lambda received: 503 if received.id == items[9]["id"] else 204

    status, text = await asyncio.to_thread(run, *arguments, **environ)
    assert status == 1
    assert "does not take events (503)" in text
    assert text.endswith("`--after 8` continues.\n")
    sink.answer = lambda _: 204
    assert await asyncio.to_thread(run, *arguments, "--after", "8", **environ) == (0, "7 events published, 0 refused\n")
    assert {received.id for received in sink.taken} == {item["id"] for item in items}


async def test_a_refused_event_is_counted_and_the_others_are_posted(
    database_url: str, tmp_path: Path, sink: Sink
) -> None:
    items = await make_history(database_url, tmp_path)
    sink.answer = lambda received: 400 if received.id == items[3]["id"] else 204
    environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": sink.url}

    result = command(tmp_path, "events", "replay", "--since", "2020-01-01T00:00:00Z", **environ)

    assert (result.returncode, result.stdout) == (1, "14 events published, 1 refused\n")
    assert items[3]["id"] in result.stderr


def secret(event: Any) -> dict[str, Any]:
    content = base64.b64encode(json.dumps(event).encode()).decode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dead"}, "data": {"event": content}}


@pytest.mark.parametrize("shape", ["secret", "list", "event", "folder", "stdin"])
def test_a_dead_letter_is_posted_again_without_what_knative_has_added(
    tmp_path: Path, sink: Sink, run: RunCommand, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    documents = {"secret": secret(DEAD), "list": {"kind": "List", "items": [secret(DEAD), secret(DEAD)]}}
    file = tmp_path / "event"
    file.write_text(json.dumps(documents.get(shape, DEAD)))
    path = {"folder": str(tmp_path), "stdin": "-"}.get(shape, str(file))
    if shape == "stdin":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))

    status, text = run("events", "replay", "--dead-letters", path, K_SINK=sink.url)

    assert (status, text) == (0, f"{len(sink.taken)} events published, 0 refused\n")
    assert len(sink.taken) == (2 if shape == "list" else 1)
    for received in sink.taken:
        assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert received.data == EVENT


def test_a_dead_letter_that_is_posted_again_has_its_effect_once(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "letter.json"
    file.write_text(json.dumps(secret(DEAD)))
    with serving(tmp_path, DATABASE_URL=database_url, EVENTS_TRUST_NETWORK="true") as service:
        for _ in range(2):
            result = command(tmp_path, "events", "replay", "--dead-letters", str(file), K_SINK=f"{service.url}/events")
            assert (result.returncode, result.stdout) == (0, "1 events published, 0 refused\n"), result.stderr
        with service.client() as client:
            emails = [user["email"] for user in client.get(USERS).json()["items"]]
    assert emails == ["ada@example.org"]


def test_a_dead_letter_is_signed_whatever_its_id(tmp_path: Path, sink: Sink, run: RunCommand) -> None:
    file = tmp_path / "letter.json"
    file.write_text(json.dumps({**DEAD, "id": "a\r\nx: \u00e9\u4e2d.1"}))
    whsec = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="

    assert run("events", "replay", "--dead-letters", str(file), K_SINK=sink.url, EVENT_SINK_SECRET=whsec)[0] == 0
    (received,) = sink.taken
    Webhook(whsec).verify(received.body, received.headers)
    assert received.data["id"] == "a\r\nx: \u00e9\u4e2d.1"
    assert "x" not in received.headers


def test_dead_letters_are_selected_by_type_and_time(tmp_path: Path, sink: Sink, run: RunCommand) -> None:
    letters = [{**EVENT, "id": "old", "time": "2025-01-01T00:00:00Z"}, EVENT, {**EVENT, "id": "x", "type": "other"}]
    file = tmp_path / "letters.json"
    file.write_text(json.dumps(letters))
    options = ["--since", "2026-01-01T00:00:00Z", "--type", "org.userservice.batch.create.v1"]

    assert run("events", "replay", "--dead-letters", str(file), *options, K_SINK=sink.url)[0] == 0
    assert [received.data["id"] for received in sink.taken] == ["e1"]


@pytest.mark.parametrize(
    "document",
    [
        None,
        "text",
        7,
        {},
        [EVENT, {}],
        [[EVENT]],
        json.loads("[" * 900 + "]" * 900),
        {"kind": "List"},
        {"kind": "Secret"},
        {"kind": "Secret", "data": {}},
        {"kind": "Secret", "data": {"event": "no base64"}},
        {"kind": "Secret", "data": {"event": "bm8="}},
        {**EVENT, "id": ""},
        {**EVENT, "source": 7},
        secret(7),
        {**EVENT, "data": json.loads("[" * 300 + "]" * 300)},
    ],
)
def test_what_is_no_dead_letter_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"event"):
        list(read_dead_letters(document))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--since TIME, or --dead-letters FILE"),
        (["--since", "yesterday"], "2026-01-31T12:00:00Z"),
        (["--since", "2026-01-31"], "2026-01-31T12:00:00Z"),
        (["--since", "2026-01-31T00:00:00Z", "--type", "moved"], "moved"),
        (["--dead-letters", "/nowhere"], "/nowhere"),
        (["--dead-letters", "/etc/hostname"], "not JSON"),
    ],
)
def test_wrong_arguments_are_named(run: RunCommand, arguments: list[str], complaint: str) -> None:
    status, text = run("events", "replay", *arguments, K_SINK="http://127.0.0.1:9/")

    assert status == 2
    assert complaint in text


def test_it_needs_a_sink_and_a_database(run: RunCommand, database_url: str, empty_database_url: str) -> None:
    arguments = ["events", "replay", "--since", "2026-01-31T00:00:00Z"]

    status, text = run(*arguments, DATABASE_URL=database_url)
    assert (status, "EVENT_SINK_URL" in text) == (2, True)
    status, text = run(*arguments, DATABASE_URL=empty_database_url, K_SINK="http://127.0.0.1:9/")
    assert (status, "user-service migrate" in text) == (1, True)
