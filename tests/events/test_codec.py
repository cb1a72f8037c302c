"""Events as senders write them: percent-encoding, pings with data, unknown types in a batch, the webhook handshake"""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from support.api import USERS, expect_problem, unique_email
from support.application import Client, running
from support.settings import make_settings

PING = "dev.knative.sources.ping"
CREATE = "org.userservice.batch.create.v1"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCHED = {"Content-Type": "application/cloudevents-batch+json"}


def make_event(kind: str = PING, **attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": uuid4().hex, "source": "/tests", "type": kind, **attributes}


def create_data(email: str) -> dict[str, Any]:
    return {"items": [{"data": {"email": email}}]}


async def send_binary(client: httpx.AsyncClient, content: bytes, **headers: Any) -> httpx.Response:
    given = {"ce-specversion": "1.0", "ce-id": uuid4().hex, "ce-source": "/tests", "ce-type": PING, **headers}
    lines = [(name, value.encode() if isinstance(value, str) else value) for name, value in given.items()]
    return await client.post("/events", content=content, headers=lines)


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-subject", "ce-myextension"])
@pytest.mark.parametrize("value", ["a%FF", "a%C3", "a%ED%A0%80", "%F0%9F%98", '"a%FE"'])
async def test_an_attribute_that_is_not_utf8_is_refused(
    shared_client: httpx.AsyncClient, name: str, value: str
) -> None:
    problem = expect_problem(await send_binary(shared_client, b"", **{name: value}), 400, "invalid_event")

    assert [fault["pointer"] for fault in problem["errors"]] == [f"header:{name}"]


@pytest.mark.parametrize("value", ["50%", "%", "%zz", "a%2", '"%4"', "%%34"])
async def test_a_percent_sign_is_encoded(shared_client: httpx.AsyncClient, value: str) -> None:
    """Otherwise `50%` and `50%25` would be one id."""
    problem = expect_problem(await send_binary(shared_client, b"", **{"ce-id": value}), 400, "invalid_event")

    assert [fault["pointer"] for fault in problem["errors"]] == ["header:ce-id"]
    assert "%25" in problem["errors"][0]["detail"]


@pytest.mark.parametrize("value", ["a%00", "%00", "x" * 1025, "%C3%BC" * 513])
async def test_an_id_is_checked_as_it_is_decoded(shared_client: httpx.AsyncClient, value: str) -> None:
    problem = expect_problem(await send_binary(shared_client, b"", **{"ce-id": value}), 400, "invalid_event")

    assert [fault["pointer"] for fault in problem["errors"]] == ["header:ce-id"]


async def test_ids_that_differ_are_two_events(shared_client: httpx.AsyncClient) -> None:
    unique, emails = uuid4().hex, [unique_email() for _ in range(3)]
    ids = [f"{unique}-%C3%BC", f"{unique}-%25C3%25BC", f"{unique}-\ufffd"]

    for event_id, email in zip(ids, emails, strict=True):
        content = orjson.dumps(create_data(email))
        headers = {"ce-id": event_id, "ce-type": CREATE, "Content-Type": "application/json"}
        for _ in ("first", "again"):
            assert (await send_binary(shared_client, content, **headers)).status_code == 200

    for email in emails:
        assert len((await shared_client.get(USERS, params={"email": email})).json()["items"]) == 1


DATA: dict[str, dict[str, Any]] = {
    "none": {},
    "null": {"data": None},
    "text": {"data": "hello", "datacontenttype": "text/plain"},
    "xml": {"data": "<a/>", "datacontenttype": "application/xml; charset=latin-1"},
    "no batch": {"data": {"items": 3}},
    "a list": {"data": [1]},
    "base64": {"data_base64": base64.b64encode(b"\xff\x00").decode()},
    "no base64": {"data_base64": "%"},
    "both": {"data": 1, "data_base64": "AA=="},
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
async def test_a_ping_with_any_data_is_a_ping(shared_client: httpx.AsyncClient, data: dict[str, Any]) -> None:
    event = make_event(**data)

    single = await shared_client.post("/events", content=orjson.dumps(event), headers=STRUCTURED)
    batch = await shared_client.post("/events", content=orjson.dumps([event, event]), headers=BATCHED)

    assert (single.status_code, batch.status_code) == (204, 202), (single.text, batch.text)


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("text/plain", b"hello"),
        ("text/plain; charset=iso-8859-1", b"h\xe9llo"),
        ("application/octet-stream", b"\x00\xff"),
        ("application/json", b"{"),
        ("application/json", b'"2026-01-12T21:05:07Z"'),
        ("application/xml", b"<a/>"),
    ],
)
async def test_a_binary_ping_with_any_data_is_a_ping(
    shared_client: httpx.AsyncClient, content_type: str, content: bytes
) -> None:
    response = await send_binary(shared_client, content, **{"Content-Type": content_type})

    assert (response.status_code, response.content) == (204, b"")


async def test_an_unknown_type_in_a_batch_is_named_and_nothing_is_applied(shared_client: httpx.AsyncClient) -> None:
    email = unique_email()
    events = [make_event(CREATE, data=create_data(email)), make_event("org.example.unknown.v1", data={})]

    response = await shared_client.post("/events", content=orjson.dumps(events), headers=BATCHED)

    (fault,) = expect_problem(response, 400, "invalid_event")["errors"]
    assert (fault["pointer"], fault["code"]) == ("/1/type", "unknown_type")
    assert CREATE in fault["detail"]
    assert (await shared_client.get(USERS, params={"email": email})).json()["items"] == []


@pytest.mark.parametrize("kind", ["create", "find"])
async def test_a_batch_of_too_many_items_refuses_the_events_before_it_too(
    shared_client: httpx.AsyncClient, kind: str
) -> None:
    email = unique_email()
    data = {"items": [{}] * 1001} if kind == "create" else {"ids": ["x"] * 600, "emails": ["x"] * 401}
    large = make_event(f"org.userservice.batch.{kind}.v1", data=data)
    events = [make_event(CREATE, data=create_data(email)), large]

    response = await shared_client.post("/events", content=orjson.dumps(events), headers=BATCHED)

    (fault,) = expect_problem(response, 413, "payload_too_large")["errors"]
    assert (fault["pointer"], fault["code"]) == ("/1/data", "too_large")
    assert "1,000" in response.json()["detail"]
    assert (await shared_client.get(USERS, params={"email": email})).json()["items"] == []


async def test_a_used_id_in_a_batch_is_named(shared_client: httpx.AsyncClient) -> None:
    used = make_event(CREATE, data=create_data(unique_email()))
    first = await shared_client.post("/events", content=orjson.dumps(used), headers=STRUCTURED)
    events = [make_event(), {**used, "data": create_data(unique_email())}]

    response = await shared_client.post("/events", content=orjson.dumps(events), headers=BATCHED)

    assert first.status_code == 200
    (fault,) = expect_problem(response, 400, "event_id_reused")["errors"]
    assert fault["pointer"] == "/1/id"


async def test_in_binary_mode_the_content_type_is_that_of_the_request(shared_client: httpx.AsyncClient) -> None:
    headers = {"ce-type": CREATE, "Content-Type": "application/json", "ce-datacontenttype": "text/xml"}

    response = await send_binary(shared_client, orjson.dumps(create_data(unique_email())), **headers)

    assert response.status_code == 200, response.text


async def test_data_that_is_no_json_is_described(shared_client: httpx.AsyncClient) -> None:
    for content, expected in ((b"\xef\xbb\xbf{}", "BOM"), (b"{", "unexpected end"), (b"", "empty")):
        response = await shared_client.post("/events", content=content, headers=STRUCTURED)

        assert expected in expect_problem(response, 400, "invalid_event")["errors"][0]["detail"]


async def test_an_unknown_type_of_one_event_is_named(shared_client: httpx.AsyncClient) -> None:
    event = make_event("org.example.unknown.v1")

    structured = await shared_client.post("/events", content=orjson.dumps(event), headers=STRUCTURED)
    binary = await send_binary(shared_client, b"", **{"ce-type": "org.example.unknown.v1"})

    pointers = [
        expect_problem(response, 400, "invalid_event")["errors"][0]["pointer"] for response in (structured, binary)
    ]
    assert pointers == ["/type", "header:ce-type"]


@pytest.fixture
async def webhooks(database_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    settings = make_settings(
        database_url, tmp_path, webhook_origins=("eventgrid.azure.net",), rate_limit_internal_max=120
    )
    async with running(settings) as client:
        client.headers.pop("X-API-Key")
        yield client


@pytest.mark.parametrize("path", ["/events", "/"])
async def test_a_named_sender_is_granted_delivery_without_credentials(webhooks: Client, path: str) -> None:
    granted = {}
    for asked in ("", "1000", "60", "0", "many"):
        headers = {"WebHook-Request-Origin": "EventGrid.azure.net", "WebHook-Request-Callback": "http://127.0.0.1:9/"}
        response = await webhooks.request("OPTIONS", path, headers=headers | {"WebHook-Request-Rate": asked})
        assert (response.status_code, response.content) == (200, b"")
        assert "POST" in response.headers["allow"]
        assert response.headers["webhook-allowed-origin"].lower() == "eventgrid.azure.net"
        granted[asked] = response.headers["webhook-allowed-rate"]

    assert granted == {"": "120", "1000": "120", "60": "60", "0": "120", "many": "120"}


@pytest.mark.parametrize(
    "origins", [[], ["evil.example"], ["azure.net"], ["eventgrid.azure.net", "evil.example"], ["*"], [""]]
)
async def test_another_sender_is_granted_nothing(webhooks: Client, origins: list[str]) -> None:
    lines = [("WebHook-Request-Origin", origin) for origin in origins]

    response = await webhooks.request("OPTIONS", "/events", headers=lines)

    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("webhook")]


async def test_a_handshake_gives_no_access(webhooks: Client) -> None:
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net", **STRUCTURED}
    await webhooks.request("OPTIONS", "/events", headers=headers)

    response = await webhooks.post("/events", content=orjson.dumps(make_event()), headers=headers)

    expect_problem(response, 401, "unauthenticated")


async def test_no_sender_is_granted_delivery_unless_one_is_named(webhooks: Client) -> None:
    settings = webhooks.resources.settings
    for named, expected in (((), None), (("*",), "any.example")):
        async with running(replace(settings, webhook_origins=named, rate_limit_internal_max=0)) as client:
            response = await client.request("OPTIONS", "/events", headers={"WebHook-Request-Origin": "any.example"})
        assert response.status_code == (200 if named else 405)
        assert response.headers["allow"] == ("OPTIONS, POST" if named else "POST")
        assert response.headers.get("webhook-allowed-origin") == expected
        assert response.headers.get("webhook-allowed-rate") == (expected and "*")
