"""The AsyncAPI document and the schemas of events say what the service sends, takes and replies."""

import asyncio
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import httpx
import pytest
from jsonschema import Draft202012Validator

from support.api import expect_problem
from support.application import Client, running
from support.event_sink import Sink
from support.settings import make_settings
from user_service.events.types import BATCH_OPERATIONS, BATCH_RESULT, BATCH_SCHEMAS, CHANGES, PING, USER_EVENT
from user_service.web.event_schemas import EVENT_DATA
from user_service.web.routes.changes import ChangeType

Document = dict[str, Any]
URN = "urn:user-service:schema:"


async def read_document(client: httpx.AsyncClient) -> Document:
    response = await client.get("/asyncapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    document: Document = response.json()
    return document


def resolve(document: Document, reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for part in value.values() for reference in references(part)]
    return [reference for part in value for reference in references(part)] if isinstance(value, list) else []


def messages(document: Document, operation: Document) -> list[Document]:
    """The messages that an operation names, or else those of its channel."""
    places = operation.get("messages") or list(resolve(document, operation["channel"]["$ref"])["messages"].values())
    found = [resolve(document, place["$ref"]) for place in places]
    return [resolve(document, message["$ref"]) if "$ref" in message else message for message in found]


def find_message(document: Document, operation: str, event_type: str, content_type: str) -> Document:
    found = document["operations"][operation]
    candidates = messages(document, found.get("reply", found))
    [message] = [m for m in candidates if (m["name"], m["contentType"]) == (event_type, content_type)]
    return message


async def check_event(client: httpx.AsyncClient, message: Document, headers: Any, data: Any) -> None:
    """The event is as the document says, and its data as the schema that it names says."""
    attributes = {name.lower(): unquote(value) for name, value in headers.items()}
    Draft202012Validator(message["headers"], format_checker=Draft202012Validator.FORMAT_CHECKER).validate(attributes)
    assert message["headers"]["properties"]["ce-dataschema"]["const"] == attributes["ce-dataschema"]
    name = attributes["ce-dataschema"].removeprefix(URN)
    schema = await client.get(f"/schemas/{name}.json")
    assert (schema.status_code, schema.headers["content-type"]) == (200, "application/schema+json")
    assert schema.json()["$id"] == attributes["ce-dataschema"]
    Draft202012Validator(schema.json(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(data)


async def test_all_types_are_described_and_all_references_lead_somewhere(client: httpx.AsyncClient) -> None:
    document = await read_document(client)

    assert document["asyncapi"] == "3.0.0"
    types = {message["name"] for message in document["components"]["messages"].values()}
    sent = {USER_EVENT.format(kind) for kind in CHANGES}
    assert types == {*sent, *BATCH_OPERATIONS, PING, *(BATCH_RESULT.format(o) for o in BATCH_OPERATIONS.values())}
    assert get_args(ChangeType) == tuple(CHANGES)
    for reference in references(document):
        resolve(document, reference)
    used = {name for names in BATCH_SCHEMAS.values() for name in names}
    assert used | {"user-change.v1", "batch-refused.v1"} == set(EVENT_DATA)
    for name in EVENT_DATA:
        schema = (await client.get(f"/schemas/{name}.json")).json()
        Draft202012Validator.check_schema(schema)
        assert all(reference.startswith("#/$defs/") for reference in references(schema))


async def test_events_of_changes_are_as_described(database_url: str, tmp_path: Path, sink: Sink) -> None:
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        path = await client.make(given_name="Ada")
        await client.patch(path, json={"locale": "en-GB"})
        await client.post(f"{path}/suspend")
        await client.delete(path)
        await client.post(f"{path}/restore")
        await client.post(f"{path}/erase")
        await client.delete(f"{path}?purge=true")
        taken = await asyncio.to_thread(sink.wait_for, len(CHANGES))
        document = await read_document(client)

        assert [received.headers["ce-type"] for received in taken] == [USER_EVENT.format(kind) for kind in CHANGES]
        for received in taken:
            message = find_message(document, "sendUserChanges", received.headers["ce-type"], "application/json")
            await check_event(client, message, received.headers, received.data)


EMAIL = {"email": "ada@example.org"}


async def test_batches_and_their_replies_are_as_described(client: Client) -> None:
    document = await read_document(client)
    path = await client.make(external_id="crm-7")
    user_id = path[-36:]
    bodies = {
        "create": {"items": [{"ref": "a", "data": EMAIL}, {"data": {"email": "no"}}], "on_conflict": "skip"},
        "update": {"items": [{"id": user_id, "if_version": 1, "data": {"locale": None}}]},
        "delete": {"items": [{"id": user_id}], "dry_run": True},
        "restore": {"items": [{"id": user_id}]},
        "find": {"external_ids": ["crm-7", "none"]},
    }
    for number, (operation, body) in enumerate(bodies.items()):
        event_type = f"org.userservice.batch.{operation}.v1"
        attributes = {"specversion": "1.0", "id": str(number), "source": "/tests", "type": event_type}
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        [request] = messages(document, document["operations"][f"receive{operation.capitalize()}"])
        Draft202012Validator(request["headers"]).validate(headers)
        schema = (await client.get(f"/schemas/{BATCH_SCHEMAS[operation][0]}.json")).json()
        if operation != "create":
            Draft202012Validator(schema).validate(body)
        assert not Draft202012Validator(schema).is_valid({**body, "unknown": True})

        for _ in range(2):
            reply = await client.post("/events", json=body, headers=headers)
            assert reply.status_code == 200
            message = find_message(
                document,
                f"receive{operation.capitalize()}",
                reply.headers["ce-type"],
                reply.headers["content-type"],
            )
            await check_event(client, message, reply.headers, reply.json())


@pytest.mark.parametrize("mode", ["binary", "structured", "batched"])
async def test_a_refused_batch_is_described_in_each_mode(client: Client, mode: str) -> None:
    document = await read_document(client)
    event = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "org.userservice.batch.create.v1"}
    body = {"mode": "atomic", "items": [{"data": EMAIL}, {"data": EMAIL}]}
    if mode == "binary":
        headers = {f"ce-{name}": value for name, value in event.items()}
        reply = await client.post("/events", json=body, headers=headers)
        attributes, data = dict(reply.headers), reply.json()
    else:
        events = {**event, "data": body} if mode == "structured" else [{**event, "data": body}]
        content_type = f"application/cloudevents{'-batch' if mode == 'batched' else ''}+json"
        reply = await client.post("/events", json=events, headers={"Content-Type": content_type})
        attributes, data = dict(reply.headers), reply.json()
        if mode == "batched":
            [replied] = data
            data = replied.pop("data")
            attributes = {f"ce-{name}": value for name, value in replied.items()}

    assert attributes["ce-dataschema"] == f"{URN}batch-refused.v1"
    event_type = "org.userservice.batch.create.result.v1"
    message = find_message(document, "receiveCreate", event_type, "application/problem+json")
    await check_event(client, message, attributes, data)


async def test_a_service_without_the_endpoint_for_events_receives_none(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, serve="api")) as client:
        document = await read_document(client)

    assert list(document["operations"]) == ["sendUserChanges"]
    for reference in references(document):
        resolve(document, reference)


async def test_the_documents_need_no_key_and_another_schema_is_not_found(shared_client: httpx.AsyncClient) -> None:
    for path in ("/asyncapi.json", "/schemas/user-change.v1.json"):
        assert (await shared_client.get(path, headers={"X-API-Key": ""})).status_code == 200
    for name in ("user-change.v2", "user-change.v1.json", "%00", "..%2Fopenapi"):
        expect_problem(await shared_client.get(f"/schemas/{name}.json"), 404, "not_found")
