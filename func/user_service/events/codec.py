"""HTTP requests to CloudEvents 1.0: binary, structured, batched; through the SDK, with the checks that it leaves out.

The SDK fills in a missing id, takes 0.3 for 1.0, passes over the content type and makes text of data that is no JSON.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import orjson
from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse

from user_service.errors import FieldError, InvalidEvent, UnsupportedMediaType

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
REQUIRED: Final = ("specversion", "id", "source", "type")
JSON_TYPE: Final = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json", re.IGNORECASE)
# What fits an index of PostgreSQL together.
MAX_NAME_BYTES: Final = 1024

RawHeaders = Sequence[tuple[bytes, bytes]]


class Incoming(NamedTuple):
    """An event whose attributes are in order; `data` is what its JSON holds, None where there is none."""

    id: str
    source: str
    type: str
    traceparent: str | None
    data: Any

    @property
    def size(self) -> int:
        """How many items or keys the batch has."""
        lists = self.data.values() if isinstance(self.data, dict) else ()
        return sum(len(items) for items in lists if isinstance(items, list))


def decode(headers: RawHeaders, body: bytes) -> tuple[list[Incoming], bool]:
    """The events of a request, and whether they came as a batch. Raises InvalidEvent, UnsupportedMediaType."""
    fields = fields_of(headers)
    media_type = media_type_of(fields.get("content-type", ""))
    if media_type == BATCHED:
        return batched(body), True
    if media_type == STRUCTURED:
        return [structured(body)], False
    if media_type.startswith("application/cloudevents"):
        raise UnsupportedMediaType(f"Send events as {STRUCTURED}, as {BATCHED}, or in binary mode with JSON.")
    if any(name.startswith("ce-") for name in fields):
        return [binary(fields, body)], False
    raise UnsupportedMediaType(
        f"This is no CloudEvent: send Content-Type {STRUCTURED} or {BATCHED}, or the attributes in ce- headers."
    )


def fields_of(headers: RawHeaders) -> dict[str, str]:
    """The headers by lower-case name. Raises InvalidEvent for an attribute that is given twice or is not text."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if not name.startswith("ce-"):
            fields[name] = raw_value.decode("latin-1")
            continue
        if name in fields:
            raise invalid(f"header:{name}", "repeated_attribute", "may be given once only")
        try:
            fields[name] = unquoted(raw_value.decode())
        except UnicodeDecodeError:
            raise invalid(f"header:{name}", "encoding", "must be percent-encoded UTF-8") from None
    return fields


def unquoted(value: str) -> str:
    """A header value without the double quotes around it (RFC 9110, 5.6.4), as the HTTP binding asks for."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def media_type_of(content_type: str) -> str:
    """The media type in lower case. Raises UnsupportedMediaType for a charset other than UTF-8."""
    media_type, _, parameters = content_type.partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().lower().partition("=")
        if name == "charset" and value.strip('"') not in {"utf-8", "utf8", "us-ascii"}:
            raise UnsupportedMediaType("Send events in UTF-8.")
    return media_type.strip().lower()


class StrictJson(JSONFormat):
    """The SDK's JSON format, strict. `pointer` is the event's place in the body."""

    def __init__(self, pointer: str = "") -> None:
        self.pointer = pointer

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        attributes = json_of(data, self.pointer)
        if not isinstance(attributes, dict):
            raise invalid(self.pointer, "object", "must be a JSON object, a CloudEvent")
        check_required(attributes, self.pointer + "/")
        if "data" in attributes and "data_base64" in attributes:
            raise invalid(f"{self.pointer}/data_base64", "repeated_data", "is there beside data; one of them is enough")
        content = attributes.pop("data", None)
        if "data_base64" in attributes:
            content = self.decoded(attributes.pop("data_base64"))
        kept = {name: value for name, value in attributes.items() if value is not None}
        for name, value in kept.items():
            if isinstance(value, dict | list):
                raise invalid(f"{self.pointer}/{name}", "attribute", "must be a string, a number or a boolean")
        check_data_type(kept.get("datacontenttype"), f"{self.pointer}/datacontenttype")
        if "time" in kept:
            kept["time"] = parse_time(kept["time"], f"{self.pointer}/time")
        return (event_factory or CloudEvent)(kept, content)

    def decoded(self, text: object) -> Any:
        pointer = f"{self.pointer}/data_base64"
        try:
            content = base64.b64decode(text, validate=True) if isinstance(text, str) else None
        except (binascii.Error, ValueError):
            content = None
        if content is None:
            raise invalid(pointer, "base64", "must be base64")
        return json_of(content, pointer)

    def read_data(self, body: bytes, datacontenttype: str | None) -> Any:
        if not body:
            return None
        check_data_type(datacontenttype, "header:content-type")
        return json_of(body, "")


def binary(fields: dict[str, str], body: bytes) -> Incoming:
    check_required({name.removeprefix("ce-"): value for name, value in fields.items()}, "header:ce-")
    if "ce-time" in fields:
        parse_time(unquote(fields["ce-time"]), "header:ce-time")
    try:
        return incoming_of(from_binary(HTTPMessage(fields, body), StrictJson(), CloudEvent))
    except CloudEventValidationError as error:
        raise refused(error, "header:ce-") from None


def structured(body: bytes, pointer: str = "") -> Incoming:
    try:
        return incoming_of(from_structured(HTTPMessage({}, body), StrictJson(pointer), CloudEvent))
    except CloudEventValidationError as error:
        raise refused(error, f"{pointer}/") from None


def batched(body: bytes) -> list[Incoming]:
    items = json_of(body, "")
    if not isinstance(items, list):
        raise invalid("", "array", "must be a JSON array of CloudEvents")
    return [structured(orjson.dumps(item), f"/{index}") for index, item in enumerate(items)]


def incoming_of(event: BaseCloudEvent) -> Incoming:
    trace = event.get_extension("traceparent")
    return Incoming(
        event.get_id(),
        event.get_source(),
        event.get_type(),
        trace if isinstance(trace, str) else None,
        event.get_data(),
    )


def check_required(attributes: Mapping[str, Any], place: str) -> None:
    """Raises InvalidEvent that lists the required attributes which are missing, empty, too long or no text."""
    faults = []
    for name in REQUIRED:
        value = attributes.get(name)
        if value is None or value == "":
            faults.append(FieldError(place + name, "missing", "is required"))
        elif not isinstance(value, str) or len(value.encode("utf-8", "replace")) > MAX_NAME_BYTES or "\0" in value:
            faults.append(FieldError(place + name, "attribute", f"must be text of up to {MAX_NAME_BYTES} bytes"))
        elif name == "specversion" and value != "1.0":
            faults.append(FieldError(place + name, "specversion", "must be 1.0"))
    if faults:
        raise InvalidEvent(errors=faults)


def check_data_type(content_type: object, place: str) -> None:
    """Raises InvalidEvent unless the data is declared to be JSON, as it is where nothing is declared."""
    if content_type is None:
        return
    if not isinstance(content_type, str) or not JSON_TYPE.fullmatch(media_type_of(content_type)):
        raise invalid(place, "content_type", "must be application/json: the data of this service's events is JSON")


def parse_time(text: object, place: str) -> datetime:
    try:
        moment: datetime | None = isoparse(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid(place, "time", "must be an RFC 3339 time with its offset")
    return moment


def json_of(text: str | bytes, pointer: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise invalid(pointer, "json", "must be JSON in UTF-8") from None


def refused(error: CloudEventValidationError, place: str) -> InvalidEvent:
    faults = [FieldError(place + name, "attribute", "is not as CloudEvents 1.0 has it") for name in error.errors]
    return InvalidEvent(errors=faults)


def invalid(pointer: str, code: str, detail: str) -> InvalidEvent:
    return InvalidEvent(errors=[FieldError(pointer, code, detail)])
