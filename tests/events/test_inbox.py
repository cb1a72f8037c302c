"""Events in: what is taken, how it is answered, and that it happens once."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
import pytest
from cloudevents.core.bindings import http as binding
from cloudevents.core.v1.event import CloudEvent

from support.api import USERS
from support.application import Client, running
from support.event_sink import Sink
from support.settings import API_KEY, make_settings
from support.waiting import eventually

pytestmark = pytest.mark.anyio

CREATE = "org.userservice.batch.create.v1"
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with running(make_settings(database_url, tmp_path)) as client:
        yield client


def make_batch(*emails: str, **others: Any) -> dict[str, Any]:
    return {"items": [{"ref": email, "data": {"email": email}} for email in emails], **others}


def make_event(kind: str = CREATE, **attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": uuid4().hex, "source": "/tests", "type": kind, **attributes}


def binary_headers(event: dict[str, Any], **others: str) -> dict[str, str]:
    return {f"ce-{name}": value for name, value in event.items()} | {"content-type": "application/json", **others}


async def send(client: httpx.AsyncClient, event: dict[str, Any], path: str = "/events") -> httpx.Response:
    return await client.post(path, content=orjson.dumps(event), headers=STRUCTURED)


async def list_emails(client: httpx.AsyncClient) -> list[str]:
    page = (await client.get(USERS, params={"limit": 200})).json()
    return [user["email"] for user in page["items"]]


def assert_reply(response: httpx.Response, event: dict[str, Any]) -> dict[str, Any]:
    """The reply is a CloudEvent as api.md describes it; gives its data."""
    assert response.status_code == 200, response.text
    reply = binding.from_binary_event(binding.HTTPMessage(dict(response.headers), response.content))
    assert reply.get_type() == event["type"].replace(".v1", ".result.v1")
    assert reply.get_source() == "/user-service"
    assert reply.get_extension("causationid") == event["id"]
    assert reply.get_specversion() == "1.0"
    data = reply.get_data()
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("path", ["/events", "/"])
@pytest.mark.parametrize("mode", ["structured", "binary", "base64"])
async def test_an_event_in_each_mode_is_processed_and_answered_by_an_event(
    client: Client, mode: str, path: str
) -> None:
    event, data = make_event(), make_batch("ada@example.org", "grace@example.org")
    if mode == "structured":
        response = await send(client, {**event, "data": data}, path)
    elif mode == "base64":
        response = await send(client, {**event, "data_base64": base64.b64encode(orjson.dumps(data)).decode()}, path)
    else:
        response = await client.post(path, content=orjson.dumps(data), headers=binary_headers(event))
    result = assert_reply(response, event)
    assert result["summary"] == {"total": 2, "succeeded": 2, "failed": 0, "skipped": 0}
    assert sorted(await list_emails(client)) == ["ada@example.org", "grace@example.org"]


async def test_events_made_by_the_sdk_are_taken(client: Client) -> None:
    for index, write in enumerate((binding.to_binary_event, binding.to_structured_event)):
        event = CloudEvent({"type": CREATE, "source": "/sdk"}, make_batch(f"user-{index}@example.org"))
        message = write(event)
        response = await client.post("/events", content=message.body, headers=message.headers)
        assert response.status_code == 200, response.text
    assert len(await list_emails(client)) == 2


@pytest.mark.parametrize("first", ["structured", "binary"])
async def test_the_same_event_again_gets_the_same_reply_and_has_no_effect(client: Client, first: str) -> None:
    event, data = make_event(source="/tests/ä b"), make_batch("ada@example.org")
    quoted = {**event, "source": "/tests/%C3%A4%20b"}

    async def deliver(mode: str) -> httpx.Response:
        if mode == "structured":
            return await send(client, {**event, "data": data})
        return await client.post("/events", content=orjson.dumps(data), headers=binary_headers(quoted))

    responses = [await deliver(first)] + [await deliver(mode) for mode in ("structured", "binary", "structured")]
    assert_reply(responses[0], event)
    ours = [{n: v for n, v in response.headers.items() if n.startswith(("ce-", "content-"))} for response in responses]
    assert ours == [ours[0]] * 4
    assert [response.content for response in responses] == [responses[0].content] * 4
    assert await list_emails(client) == ["ada@example.org"]


async def test_a_find_is_answered_the_same_again_although_users_have_changed(client: Client) -> None:
    event = make_event(
        "org.userservice.batch.find.v1", data={"ids": [], "emails": ["ada@example.org"], "external_ids": []}
    )
    before = await send(client, event)
    assert assert_reply(before, event)["found"] == []
    await client.post(USERS, json={"email": "ada@example.org"})
    after = await send(client, event)
    assert after.content == before.content
    other = {**event, "id": "another"}
    assert len(assert_reply(await send(client, other), other)["found"]) == 1


async def test_every_verb_of_the_batches_is_there(client: Client) -> None:
    made = make_event(data=make_batch("ada@example.org"))
    (item,) = assert_reply(await send(client, made), made)["items"]
    user = {"id": item["id"]}
    statuses = []
    for verb, items in (
        ("update", [{**user, "data": {"locale": "en-GB"}}]),
        ("delete", [user]),
        ("restore", [user]),
    ):
        event = make_event(f"org.userservice.batch.{verb}.v1", data={"items": items})
        statuses.append(assert_reply(await send(client, event), event)["items"][0]["status"])
    assert statuses == ["updated", "deleted", "restored"]


async def test_failed_items_are_in_a_reply_of_200(client: Client) -> None:
    first = make_event(data=make_batch("ada@example.org"))
    await send(client, first)
    missing = make_event("org.userservice.batch.delete.v1", data={"items": [{"id": str(uuid4())}]})
    result = assert_reply(await send(client, missing), missing)
    assert result["items"][0]["error"]["code"] == "user_not_found"
    atomic = make_event(data=make_batch("new@example.org", "ada@example.org", mode="atomic"))
    refused = await send(client, atomic)
    assert refused.status_code == 200
    assert refused.headers["ce-type"] == "org.userservice.batch.create.result.v1"
    assert refused.json()["code"] == "batch_refused"
    assert (await send(client, atomic)).content == refused.content
    assert await list_emails(client) == ["ada@example.org"]


async def test_a_dry_run_is_answered_the_same_again(client: Client) -> None:
    event = make_event(data=make_batch("ada@example.org", dry_run=True))
    first = await send(client, event)
    assert_reply(first, event)
    await client.post(USERS, json={"email": "ada@example.org"})
    assert (await send(client, event)).content == first.content


async def test_another_body_or_type_under_the_same_id_is_refused(client: Client) -> None:
    event = make_event(data=make_batch("ada@example.org"))
    await send(client, event)
    for other in ({**event, "data": make_batch("b@example.org")}, {**event, "type": "org.userservice.batch.delete.v1"}):
        response = await send(client, other)
        assert response.status_code == 400
        assert response.json()["code"] in {"event_id_reused", "invalid_event"}
    assert (await send(client, {**event, "data": make_batch("b@example.org")})).json()["code"] == "event_id_reused"
    same_id = {**event, "source": "/elsewhere", "data": make_batch("b@example.org")}
    assert_reply(await send(client, same_id), same_id)


GOOD = {"specversion": "1.0", "id": "1", "source": "/tests", "type": CREATE, "data": {"items": []}}
WRONG: dict[str, Any] = {
    "no id": {**GOOD, "id": None},
    "empty id": {**GOOD, "id": ""},
    "id is a number": {**GOOD, "id": 7},
    "id is too long": {**GOOD, "id": "x" * 2000},
    "no source": {name: value for name, value in GOOD.items() if name != "source"},
    "no type": {name: value for name, value in GOOD.items() if name != "type"},
    "no specversion": {name: value for name, value in GOOD.items() if name != "specversion"},
    "old specversion": {**GOOD, "specversion": "0.3"},
    "unknown type": {**GOOD, "type": "org.example.unknown.v1"},
    "no data": {name: value for name, value in GOOD.items() if name != "data"},
    "data is a list": {**GOOD, "data": [1]},
    "data is text": {**GOOD, "data": '{"items": []}'},
    "data has an unknown field": {**GOOD, "data": {"items": [], "colour": "blue"}},
    "data twice": {**GOOD, "data_base64": "e30="},
    "data is no base64": {**{n: v for n, v in GOOD.items() if n != "data"}, "data_base64": "?"},
    "data is no JSON": {**{n: v for n, v in GOOD.items() if n != "data"}, "data_base64": "e30"},
    "data is XML": {**GOOD, "datacontenttype": "application/xml"},
    "time is no time": {**GOOD, "time": "yesterday"},
    "an attribute is an object": {**GOOD, "colour": {"name": "blue"}},
    "an attribute has a capital": {**GOOD, "Colour": "blue"},
    "a list": [GOOD],
    "a number": 7,
}


async def test_what_is_no_event_of_ours_is_refused_for_good(client: Client) -> None:
    for name, document in WRONG.items():
        response = await client.post("/events", content=orjson.dumps(document), headers=STRUCTURED)
        assert response.status_code == 400, name
        assert response.headers["content-type"] == "application/problem+json", name
        problem = response.json()
        assert problem["code"] == "invalid_event", name
        assert problem["errors"] or "type" in problem["detail"], name


MALFORMED: list[tuple[dict[str, str], bytes, int]] = [
    (binary_headers({**make_event()}), b"{", 400),
    (binary_headers({**make_event()}), b"\xff\xfe", 400),
    (binary_headers({**make_event()}), b"", 400),
    (binary_headers({**make_event()}, **{"content-type": "text/plain"}), b'{"items": []}', 400),
    (binary_headers({n: v for n, v in make_event().items() if n != "id"}), b'{"items": []}', 400),
    (binary_headers({**make_event(), "specversion": "0.3"}), b'{"items": []}', 400),
    (binary_headers({**make_event(), "time": "now"}), b'{"items": []}', 400),
    (STRUCTURED, b"{", 400),
    (STRUCTURED, b"\xff", 400),
    (BATCHED, b"{}", 400),
    ({"content-type": "application/json"}, orjson.dumps(GOOD), 415),
    ({"content-type": "application/cloudevents+avro"}, b"x", 415),
    ({"content-type": "application/cloudevents+json; charset=latin1"}, orjson.dumps(GOOD), 415),
    (STRUCTURED, b" " * (2 * 1024 * 1024 + 1), 413),
    (STRUCTURED, orjson.dumps({**GOOD, "data": {"items": [{}] * 1001}}), 413),
]


async def test_a_malformed_request_gets_a_problem_that_a_broker_does_not_retry(client: Client) -> None:
    for headers, body, status in MALFORMED:
        response = await client.post("/events", content=body, headers=headers)
        assert response.status_code == status, (headers, body[:40], response.text)
        assert response.headers["content-type"] == "application/problem+json"


async def test_an_attribute_that_is_given_twice_is_refused(client: Client) -> None:
    headers = [*binary_headers(make_event()).items(), ("ce-id", "another")]
    response = await client.post("/events", content=b'{"items": []}', headers=headers)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "header:ce-id"


async def test_header_values_lose_their_quotes_and_percent_signs_once(client: Client) -> None:
    event = make_event(id='"a \\"quoted\\" %2525 id"')
    response = await client.post("/events", content=b'{"items": []}', headers=binary_headers(event))
    assert response.status_code == 200
    message = binding.HTTPMessage(dict(response.headers), response.content)
    assert binding.from_binary_event(message).get_extension("causationid") == 'a "quoted" %25 id'


async def test_deliveries_at_the_same_time_have_one_effect(client: Client) -> None:
    event = make_event(data=make_batch(*(f"user-{index}@example.org" for index in range(100))))
    responses = await asyncio.gather(*(send(client, event) for _ in range(8)))
    assert {response.status_code for response in responses} <= {200, 409}
    done = [response for response in responses if response.status_code == 200]
    assert len({response.content for response in done}) == 1
    for response in responses:
        if response.status_code == 409:
            assert response.json()["code"] == "event_in_progress"
    assert (await send(client, event)).content == done[0].content
    assert len(await list_emails(client)) == 100


async def test_an_event_that_is_being_processed_elsewhere_is_answered_409(client: Client, database_url: str) -> None:
    from user_service.encryption.blind_index import BlindIndex
    from user_service.events.codec import Incoming
    from user_service.events.inbox import InboxEntry

    event = make_event(data=make_batch("ada@example.org"))
    keys = client.resources.keys
    cipher, index = keys.cipher, BlindIndex(keys.blind_index)
    entry = InboxEntry(Incoming(event["id"], event["source"], event["type"], None, event["data"]), cipher, index)
    elsewhere = await asyncpg.connect(database_url)
    try:
        number = int.from_bytes(entry.name[:8], "big", signed=True)
        await elsewhere.fetchval("SELECT pg_advisory_lock($1)", number)
        response = await send(client, event)
        assert (response.status_code, response.json()["code"]) == (409, "event_in_progress")
    finally:
        await elsewhere.close()

    async def processed() -> bool:
        return (await send(client, event)).status_code == 200

    await eventually(processed)


async def test_a_batch_of_events_is_answered_by_a_batch_of_replies(client: Client) -> None:
    ping = {"specversion": "1.0", "id": "p", "source": "/ping", "type": "dev.knative.sources.ping"}
    events = [make_event(data=make_batch("a@example.org")), ping, make_event(data=make_batch("b@example.org"))]
    response = await client.post("/events", content=orjson.dumps(events), headers=BATCHED)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/cloudevents-batch+json"
    replies = response.json()
    assert [reply["causationid"] for reply in replies] == [events[0]["id"], events[2]["id"]]
    assert [reply["data"]["summary"]["succeeded"] for reply in replies] == [1, 1]
    again = await client.post("/events", content=orjson.dumps(events), headers=BATCHED)
    assert again.json() == replies
    only_ping = await client.post("/events", content=orjson.dumps([ping]), headers=BATCHED)
    assert (only_ping.status_code, only_ping.content) == (202, b"")
    empty = await client.post("/events", content=b"[]", headers=BATCHED)
    assert (empty.status_code, empty.content) == (202, b"")


async def test_a_batch_with_a_wrong_event_is_refused_before_any_is_processed(client: Client) -> None:
    events = [make_event(data=make_batch("a@example.org")), make_event(data={"items": 7})]
    response = await client.post("/events", content=orjson.dumps(events), headers=BATCHED)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "/1/data/items"
    assert await list_emails(client) == []


async def test_a_ping_relays_what_waits_and_gets_an_empty_answer(database_url: str, tmp_path: Path, sink: Sink) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        await client.make()
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        response = await send(client, make_event("dev.knative.sources.ping"))
        assert (response.status_code, response.content) == (204, b"")
        await asyncio.to_thread(sink.wait_for, 1)


async def test_the_trace_of_an_event_goes_on_in_the_events_out(database_url: str, tmp_path: Path, sink: Sink) -> None:
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        await send(client, make_event(traceparent=TRACE, data=make_batch("ada@example.org")))
        (received,) = await asyncio.to_thread(sink.wait_for, 1)
    assert received.headers["ce-traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert received.headers["ce-traceparent"] != TRACE


async def test_the_event_endpoint_asks_for_credentials_unless_the_network_is_trusted(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    event = make_event(data=make_batch("ada@example.org"))
    for path in ("/events", "/"):
        response = await client.post(path, json=event, headers={**STRUCTURED, "x-api-key": "wrong"})
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    async with running(make_settings(database_url, tmp_path, events_trust_network=True)) as trusting:
        del trusting.headers["x-api-key"]
        assert_reply(await send(trusting, event), event)
        assert (await trusting.get(USERS)).status_code == 401
        trail = (await trusting.get(USERS, headers={"x-api-key": API_KEY})).json()
        assert len(trail["items"]) == 1


@pytest.mark.parametrize(("serve", "users", "events"), [("api", 200, 404), ("events", 404, 200), ("all", 200, 200)])
async def test_serve_chooses_what_is_mounted(
    database_url: str, tmp_path: Path, serve: str, users: int, events: int
) -> None:
    async with running(make_settings(database_url, tmp_path, serve=serve)) as client:
        assert (await client.get(USERS)).status_code == users
        event = make_event(data=make_batch())
        for path in ("/events", "/"):
            assert (await send(client, event, path)).status_code in {events, 405 if events == 404 else events}
        assert (await client.get(f"{USERS}/{uuid4()}")).json()["code"] == (
            "user_not_found" if users == 200 else "not_found"
        )
        for path in ("/api/health/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_received_events_are_counted_by_known_types_only(client: Client) -> None:
    await send(client, make_event(data=make_batch("ada@example.org")))
    await send(client, make_event(data={"items": 7}))
    await send(client, make_event("org.example.one"))
    await send(client, make_event("org.example.two"))
    shown = (await client.get("/metrics")).text
    assert f'user_events_received_total{{outcome="processed",type="{CREATE}"}} 1.0' in shown
    assert f'user_events_received_total{{outcome="refused",type="{CREATE}"}} 1.0' in shown
    assert 'user_events_received_total{outcome="refused",type="unknown"} 2.0' in shown
    assert "org.example" not in shown


async def test_replies_are_stored_encrypted_for_a_week(client: Client, database_url: str) -> None:
    old = make_event(data=make_batch("ada@example.org"))
    await send(client, old)
    connection = await asyncpg.connect(database_url)
    try:
        reply = await connection.fetchval("SELECT reply FROM inbox")
        assert b"ada" not in reply
        await connection.execute("UPDATE inbox SET processed_at = now() - interval '8 days'")
        new = make_event(data=make_batch("grace@example.org"))
        await send(client, new)
        assert [row[0] for row in await connection.fetch("SELECT id FROM inbox")] == [new["id"]]
    finally:
        await connection.close()


async def test_data_that_is_nested_too_deeply_is_refused(client: Client) -> None:
    body = b'{"specversion":"1.0","id":"deep","source":"/tests","type":"%s","data":{"items":%s1%s}}'
    content = body % (CREATE.encode(), b"[" * 300, b"]" * 300)

    response = await client.post("/events", content=content, headers=STRUCTURED)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_event")
