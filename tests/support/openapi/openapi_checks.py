"""Checks of schemathesis that know more than the document can say: why an invalid batch or event is a 2xx.

A 2xx for a batch is right only if the request is a batch whose invalid items are those that failed. A 2xx for events is
right only if each event is a CloudEvent of a known type, and its data such a batch, or if it is a ping.
"""

from typing import Any, Final
from urllib.parse import unquote

import orjson
import schemathesis
from jsonschema_rs import Draft202012Validator

BATCHES: Final = "/api/v1/users/batch/"
BODIES: Final = {
    "create": "CreateBatch",
    "update": "UpdateBatch",
    "delete": "UserBatch",
    "restore": "UserBatch",
    "find": "FindBatch",
}
EVENT_TYPES: Final = {f"org.userservice.batch.{name}.v1": name for name in BODIES}
PING: Final = "dev.knative.sources.ping"
REQUIRED: Final = ("id", "source", "type")
MAX_NAME_BYTES: Final = 1024
# The document's schemas, and the validators that were made of them, by the name of the schema.
validators: dict[str, Draft202012Validator] = {}


@schemathesis.check
def batches_are_refused_item_by_item(ctx: Any, response: Any, case: Any) -> None:
    operation = case.operation.path.removeprefix(BATCHES)
    if operation in BODIES and case.method == "POST" and response.status_code < 300:
        check_batch(case, operation, orjson.loads(response.request.body), orjson.loads(response.content))


@schemathesis.check
def accepted_events_are_events(ctx: Any, response: Any, case: Any) -> None:
    if case.operation.path != "/events" or case.method != "POST" or response.status_code >= 300:
        return
    headers = {name.lower(): as_text(value) for name, value in response.request.headers.items()}
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    body = response.request.body or b""
    if media_type == "application/cloudevents-batch+json":
        events = orjson.loads(body)
        assert isinstance(events, list), "a batch of events that is no list"
        replies = orjson.loads(response.content) if response.content else []
        batches = [event for event in events if attributes_type(event) != PING]
        assert len(replies) == len(batches)
        for event, reply in zip(batches, replies, strict=True):
            check_event(case, event, reply["data"])
    elif media_type == "application/cloudevents+json":
        check_event(case, orjson.loads(body), orjson.loads(response.content or b"null"))
    else:
        event = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        check_event(case, event, orjson.loads(response.content or b"null"), body=body)


def check_event(case: Any, event: Any, reply: Any, *, body: bytes | None = None) -> None:
    """Asserts that an event is one; `body` is its data in binary mode."""
    kind = attributes_type(event)
    assert event.get("specversion") == "1.0", "another specversion"
    for name in REQUIRED:
        value = event.get(name)
        assert isinstance(value, str), f"{name} is no text"
        assert 0 < len(value.encode()) <= MAX_NAME_BYTES, f"{name} is empty or too long"
    assert kind == PING or kind in EVENT_TYPES, "an unknown type"
    if kind != PING:
        data = event.get("data") if body is None else orjson.loads(body)
        check_batch(case, EVENT_TYPES[kind], data, reply)


def attributes_type(event: Any) -> Any:
    assert isinstance(event, dict), "an event that is no object"
    return event.get("type")


def check_batch(case: Any, operation: str, batch: Any, reply: Any) -> None:
    """Asserts that a batch is invalid in its items alone, and that each of these has failed."""
    for error in validator(case, BODIES[operation]).iter_errors(batch):
        path = list(error.instance_path)
        assert path[:1] == ["items"], f"accepted outside of its items: {path} {error.message}"
        assert len(path) > 1, f"accepted with items that are no list: {error.message}"
        assert path[1] in failed_items(reply), f"item {path[1]} is invalid and has not failed: {error.message}"


def failed_items(reply: Any) -> set[int]:
    return {item["index"] for item in reply["items"] if item["status"] == "failed"}


def validator(case: Any, name: str) -> Draft202012Validator:
    if name not in validators:
        components = case.operation.schema.raw_schema["components"]
        validators[name] = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})
    return validators[name]


def as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
