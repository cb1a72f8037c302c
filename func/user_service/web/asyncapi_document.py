"""The AsyncAPI 3 document: the events that the service sends and receives, from the tables in events/types.py."""

from functools import cache
from typing import Any, Final

from user_service import __version__
from user_service.events.types import (
    BATCH_OPERATIONS,
    BATCH_REFUSED,
    BATCH_RESULT,
    BATCH_SCHEMAS,
    CHANGES,
    PING,
    SCHEMA_URI,
    USER_EVENT,
)
from user_service.events.types import USER_CHANGE as USER_CHANGE_SCHEMA
from user_service.web.event_schemas import make_components
from user_service.web.openapi import JSON, PROBLEM_JSON

SCHEMAS: Final = "#/components/schemas/"
TEXT: Final = {"type": "string", "minLength": 1}
TIME: Final = {"type": "string", "format": "date-time"}
DESCRIPTION: Final = """The events of the user directory, as CloudEvents 1.0 over HTTP.

`docs/events.md` has the guarantees, the retries and the signatures. `ce-dataschema` names the schema of an event's
data, which is also at `/schemas/<name>.json`."""
SECURITY: Final = {
    "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key", "description": "A key of the service"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token (JWT) or a key of the service"},
}

Messages = dict[str, dict[str, Any]]


def make_name(event_type: str) -> str:
    """The name of a message: `userCreated` of `org.userservice.user.created.v1`."""
    words = event_type.removeprefix("org.userservice.").removesuffix(".v1").replace("_", ".").split(".")
    return words[0] + "".join(map(str.capitalize, words[1:]))


def make_message(
    event_type: str,
    summary: str,
    payload: dict[str, Any],
    *,
    dataschema: str | None = None,
    attributes: dict[str, Any] | None = None,
    content_type: str = JSON,
) -> dict[str, Any]:
    """A message in binary mode: attributes in headers, data in the body. `dataschema` is the name that it has there."""
    headers = {
        "ce-specversion": {"type": "string", "const": "1.0"},
        "ce-id": TEXT,
        "ce-source": {"type": "string", "format": "uri-reference", "minLength": 1},
        "ce-type": {"type": "string", "const": event_type},
        **(attributes or {}),
    }
    required = list(headers)
    if dataschema is not None:
        headers["ce-dataschema"] = {"type": "string", "const": SCHEMA_URI.format(dataschema)}
    return {
        "name": event_type,
        "title": event_type,
        "summary": summary,
        "contentType": content_type,
        "headers": {"type": "object", "required": required, "properties": headers},
        "payload": payload,
    }


def user_messages(schemas: dict[str, dict[str, str]]) -> Messages:
    attributes = {
        "ce-subject": {"type": "string", "format": "uuid", "description": "The user's id"},
        "ce-time": TIME,
        "ce-sequence": {"type": "string", "pattern": "^[0-9]+$", "description": "The version, as a number"},
        "ce-partitionkey": {"type": "string", "description": "The user's id"},
        "ce-traceparent": {"type": "string", "description": "The trace of the change"},
    }
    return {
        make_name(event_type): make_message(
            event_type, summary, schemas[USER_CHANGE_SCHEMA], dataschema=USER_CHANGE_SCHEMA, attributes=attributes
        )
        for event_type, summary in ((USER_EVENT.format(kind), summary) for kind, summary in CHANGES.items())
    }


def batch_messages(schemas: dict[str, dict[str, str]]) -> Messages:
    batches = {
        make_name(event_type): make_message(
            event_type, f"A batch of users to {operation}", schemas[BATCH_SCHEMAS[operation][0]]
        )
        for event_type, operation in BATCH_OPERATIONS.items()
    }
    return {**batches, "ping": make_message(PING, "Have pending events sent; its data is ignored", {})}


def reply_messages(schemas: dict[str, dict[str, str]]) -> Messages:
    """The replies of each operation, and the one that a refused atomic batch gets in its place."""
    attributes = {"ce-time": TIME, "ce-causationid": {"type": "string", "description": "The `id` of the request"}}
    found: Messages = {}
    for operation in BATCH_OPERATIONS.values():
        event_type = BATCH_RESULT.format(operation)
        replies = {"": (BATCH_SCHEMAS[operation][1], f"The result of a batch to {operation}", JSON)}
        if operation != "find":
            replies["Refused"] = (BATCH_REFUSED, "An atomic batch of which nothing was applied", PROBLEM_JSON)
        for ending, (name, summary, content_type) in replies.items():
            found[make_name(event_type) + ending] = make_message(
                event_type, summary, schemas[name], dataschema=name, attributes=attributes, content_type=content_type
            )
    return found


def refer(place: str) -> dict[str, str]:
    return {"$ref": f"#/{place}"}


def make_channel(name: str, messages: Messages, *, address: str | None, description: str) -> dict[str, Any]:
    places = {message: refer(f"components/messages/{message}") for message in messages}
    return {"address": address, "title": name, "description": description, "messages": places}


def receive_operations() -> dict[str, Any]:
    """One operation for each batch, with its replies, and one for the ping."""
    security = [refer(f"components/securitySchemes/{name}") for name in SECURITY]
    received = {"action": "receive", "channel": refer("channels/events"), "security": security}
    operations: dict[str, Any] = {
        "receivePing": {**received, "messages": [refer("channels/events/messages/ping")]},
    }
    for event_type, operation in BATCH_OPERATIONS.items():
        result = make_name(BATCH_RESULT.format(operation))
        replies = [result] if operation == "find" else [result, f"{result}Refused"]
        operations[f"receive{operation.capitalize()}"] = {
            **received,
            "summary": f"Run a batch to {operation}, once for each `source` and `id`",
            "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
            "messages": [refer(f"channels/events/messages/{make_name(event_type)}")],
            "reply": {
                "channel": refer("channels/replies"),
                "messages": [refer(f"channels/replies/messages/{reply}") for reply in replies],
            },
        }
    return operations


@cache
def make_asyncapi_document(*, is_receiving: bool) -> dict[str, Any]:
    """The document; `is_receiving`: whether the service has the endpoint for events."""
    schemas, definitions = make_components(SCHEMAS)
    sent = user_messages(schemas)
    messages = dict(sent)
    channels = {
        "userChanges": make_channel(
            "userChanges", sent, address=None, description="The sink: `K_SINK`, or else `EVENT_SINK_URL`"
        )
    }
    operations: dict[str, Any] = {
        "sendUserChanges": {
            "action": "send",
            "summary": "Every committed change, at least once, and first in the order of each user's versions",
            "channel": refer("channels/userChanges"),
            "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
        }
    }
    if is_receiving:
        received, replies = batch_messages(schemas), reply_messages(schemas)
        messages |= received | replies
        channels["events"] = make_channel(
            "events", received, address="/events", description="Single events in binary or structured mode, and batches"
        )
        channels["replies"] = make_channel(
            "replies", replies, address=None, description="The response of `POST /events`, which a broker routes on"
        )
        operations |= receive_operations()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "User Service",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": JSON,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": definitions, "securitySchemes": SECURITY},
    }
