"""`POST /events`, and `POST /` for kn func's own triggers: CloudEvents over HTTP.

A broker retries after 404, 408, 409, 429 and 5xx. It accepts a 2xx only when the body is an event, or empty.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from cloudevents.core.bindings.http import to_binary_event
from cloudevents.core.v1.event import CloudEvent
from fastapi import Request, Response

from user_service.errors import ShuttingDown
from user_service.events.codec import BATCHED, MAX_NAME_BYTES, STRUCTURED, decode
from user_service.events.dispatch import ParsedEvent, reply_documents
from user_service.events.types import BATCH_OPERATIONS, PING
from user_service.observability.trace_context import continue_trace
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.web.dependencies import get_parts, get_resources
from user_service.web.openapi import Responses, problems
from user_service.web.problems import request_context
from user_service.web.request_context import RequestContext
from user_service.web.routing import LargeRoute, make_router

RATE: Final = re.compile("[1-9][0-9]{0,8}", re.ASCII)
NO_STORE: Final = {"Cache-Control": "no-store"}

router = make_router("events", route_class=LargeRoute)
# Used if `WEBHOOK_ORIGINS` names a sender; otherwise OPTIONS is 405.
webhook_router = make_router("events")
TEXT: Final = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES}
EVENT: Final[dict[str, Any]] = {
    "title": "CloudEvent",
    "description": "CloudEvents 1.0 in the JSON format; `data` is the body of the batch that `type` names",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"type": "string", "const": "1.0"},
        "id": TEXT,
        "source": TEXT,
        "type": {"type": "string", "enum": [*BATCH_OPERATIONS, PING]},
        "data": {"type": "object", "description": "The body of the batch; a ping ignores it"},
    },
    "additionalProperties": {"type": ["string", "integer", "boolean", "null"]},
    "examples": [
        {
            "specversion": "1.0",
            "id": "7",
            "source": "/imports",
            "type": "org.userservice.batch.create.v1",
            "data": {"items": [{"ref": "row-1", "data": {"email": "katherine@example.org"}}]},
        }
    ],
}
EVENT_REFERENCE: Final = {"$ref": "#/components/schemas/CloudEvent"}
BINARY_ATTRIBUTES: Final = {
    "ce-specversion": "1.0",
    "ce-id": "7",
    "ce-source": "/imports",
    "ce-type": "org.userservice.batch.create.v1",
}
EVENT_BODY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": "In binary mode, with `application/json`: an attribute of the event",
            "schema": TEXT,
            "example": example,
        }
        for name, example in BINARY_ATTRIBUTES.items()
    ],
    "requestBody": {
        "required": True,
        "description": "One event or a batch of them; in binary mode the data, with the attributes in `ce-` headers",
        "content": {
            STRUCTURED: {"schema": EVENT_REFERENCE},
            BATCHED: {"schema": {"type": "array", "items": EVENT_REFERENCE}},
            "application/json": {"schema": EVENT["properties"]["data"]},
        },
    },
}
# Of a find it has `found` and `missing`, of a refused atomic batch it is a problem document.
REPLIES: Final = {
    "application/json": {"schema": {"type": "object", "description": "The response of the batch"}},
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
    BATCHED: {"schema": {"type": "array", "items": {"type": "object", "description": "A reply as a CloudEvent"}}},
}
EVENT_RESPONSES: Final[Responses] = {
    200: {"description": "Processed; the reply is a CloudEvent, or a batch of them", "content": REPLIES},
    202: {"description": "Processed; there is no reply"},
    204: {"description": "Processed; there is no reply"},
    **problems(400, 401, 403, 409, 422, 429, 503),
}


HANDSHAKE_RESPONSES: Final[Responses] = {
    200: {"description": "`WebHook-Allowed-Origin` and `WebHook-Allowed-Rate` are there if the origin may send events"}
}


@webhook_router.options("/", include_in_schema=False)
@webhook_router.options("/events", response_class=Response, responses=HANDSHAKE_RESPONSES)
async def answer_handshake(request: Request) -> Response:
    """The validation handshake of CloudEvents' web hooks. It needs no credentials and grants none.

    `WebHook-Request-Callback` is ignored: a caller without credentials could make this service call any address.
    """
    headers, resources = request_context(request).headers, get_resources(request)
    granted = grant_delivery(headers, resources.settings)
    return Response(None, 200, {"Allow": "OPTIONS, POST", **NO_STORE, **granted})


@router.post("/", include_in_schema=False)
@router.post("/events", response_class=Response, responses=EVENT_RESPONSES, openapi_extra=EVENT_BODY)
async def receive_events(request: Request) -> Response:
    """Process CloudEvents. The same event again gets the same reply and has no other effect."""
    # app.py has checked the scope, before it reads the body.
    if get_parts(request).health.stopping:
        raise ShuttingDown
    events, is_batch = decode(request.scope["headers"], await request.body())
    get_resources(request).require_database()
    dispatcher = get_parts(request).services.dispatcher
    parsed = dispatcher.parse_all(events, is_batch=is_batch)
    await request_context(request).charge(sum(event.size for event in events))
    replies = []
    for event in parsed:
        reply = await process_event(request, event)
        replies += [reply] if reply is not None else []
    if is_batch:
        return batch_response(replies)
    return reply_response(replies[0]) if replies else Response(status_code=204)


def grant_delivery(headers: Mapping[bytes, bytes], settings: Settings) -> dict[str, str]:
    """The headers that permit a sender to send events; empty for a sender that `WEBHOOK_ORIGINS` does not name."""
    origin = headers.get(b"webhook-request-origin", b"").decode("latin-1")
    if not origin or not {"*", origin.lower()} & set(settings.webhook_origins):
        return {}
    asked = headers.get(b"webhook-request-rate", b"").decode("latin-1")
    rates = [int(asked)] if RATE.fullmatch(asked) else []
    # A sender has an API key, or a token of the issuer of users' tokens.
    limits = [settings.rate_limit_internal_max, settings.rate_limit_max if settings.jwt_issuer else 0]
    rates += [limit for limit in limits if limit]
    return {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": str(min(rates)) if rates else "*"}


async def process_event(request: Request, parsed: ParsedEvent) -> CloudEvent | None:
    """The reply to one event. With tracing, its processing is a span."""
    dispatcher = get_parts(request).services.dispatcher
    event = parsed.event
    context, tracing = request_context(request), get_resources(request).tracing
    if tracing is None:
        return await dispatcher.process(parsed, event_origin(context, event.traceparent))
    with tracing.consume(event.type, event.traceparent) as traceparent:
        return await dispatcher.process(parsed, replace(context.origin, traceparent=traceparent))


def event_origin(context: RequestContext, traceparent: str | None) -> Origin:
    """The origin of the event's changes, in the trace that the event names or else in that of the request."""
    origin = context.origin
    if traceparent is None:
        return origin
    return replace(origin, traceparent=continue_trace(traceparent.encode("ascii", "replace")).decode())


def reply_response(reply: CloudEvent) -> Response:
    message = to_binary_event(reply)
    response = Response(message.body, 200, NO_STORE)
    for name, value in message.headers.items():
        response.headers[name] = value
    return response


def batch_response(replies: list[CloudEvent]) -> Response:
    """The replies as a batch; an empty 202 without replies."""
    if not replies:
        return Response(status_code=202)
    body = orjson.dumps(reply_documents(replies), option=orjson.OPT_UTC_Z)
    return Response(body, 200, NO_STORE, BATCHED)
