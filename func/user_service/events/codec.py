"""CloudEvents 1.0 from HTTP requests, in binary, structured and batched mode, by the SDK and stricter than it.

The SDK generates a missing id, accepts 0.3 as 1.0, ignores the content type, and reads data that is not JSON as text.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

import orjson
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse

from user_service.errors import FieldError, InvalidEvent, UnsupportedMediaType
from user_service.events.types import PING
from user_service.values.media_types import parse_media_type

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
REQUIRED_ATTRIBUTES: Final = ("specversion", "id", "source", "type")
# A ping is a ping whatever its data.
DATA_ATTRIBUTES: Final = frozenset({"data", "data_base64", "datacontenttype", "dataschema"})
NOT_UTF8: Final = "Events must be in UTF-8: convert the body, and send charset=utf-8 or no charset."
JSON_TYPE: Final = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json", re.IGNORECASE)
# Source and id together fit an index of PostgreSQL.
MAX_NAME_BYTES: Final = 1024

# Otherwise `50%` and `50%25` would be one value.
LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

RawHeaders = Sequence[tuple[bytes, bytes]]


class Incoming(NamedTuple):
    """An event with valid attributes; `data` is its parsed JSON, None where there is none."""

    id: str
    source: str
    type: str
    traceparent: str | None
    data: Any
    # What comes before the name of an attribute in a pointer: `/`, `/1/` or `header:ce-`.
    prefix: str = "/"

    @property
    def size(self) -> int:
        """The number of items or keys of the batch."""
        lists = self.data.values() if isinstance(self.data, dict) else ()
        return sum(len(items) for items in lists if isinstance(items, list))


def decode(headers: RawHeaders, body: bytes) -> tuple[list[Incoming], bool]:
    """The events of a request, and whether they are a batch. Raises InvalidEvent, UnsupportedMediaType."""
    fields = decode_fields(headers)
    media_type = parse_media_type(fields.get("content-type", ""))
    if media_type.name in {BATCHED, STRUCTURED} and not media_type.is_utf8:
        raise UnsupportedMediaType(NOT_UTF8)
    if media_type.name == BATCHED:
        return decode_batch(body), True
    if media_type.name == STRUCTURED:
        return [decode_document(parse_json(body, ""), "")], False
    if media_type.name.startswith("application/cloudevents"):
        raise UnsupportedMediaType(f"Send events as {STRUCTURED}, as {BATCHED}, or in binary mode with JSON.")
    if any(name.startswith("ce-") for name in fields):
        return [decode_binary(fields, body)], False
    raise UnsupportedMediaType(
        f"This is not a CloudEvent: send Content-Type {STRUCTURED} or {BATCHED}, or the attributes in ce- headers."
    )


def decode_fields(headers: RawHeaders) -> dict[str, str]:
    """The headers by lower-case name. Raises InvalidEvent for an attribute that is repeated or is not UTF-8."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if not name.startswith("ce-"):
            value = raw_value.decode("latin-1")
            # Two content types that differ are a list, which is none.
            fields[name] = value if fields.get(name, value) == value else f"{fields[name]}, {value}"
            continue
        if name in fields:
            raise invalid(f"header:{name}", "repeated_attribute", "must not be repeated")
        try:
            fields[name] = value = unquote_string(raw_value.decode())
            unquote_to_bytes(value).decode()
            is_encoded = not LONE_PERCENT.search(value)
        except UnicodeDecodeError:
            is_encoded = False
        if not is_encoded:
            raise invalid(f"header:{name}", "encoding", "must be percent-encoded UTF-8; a percent sign is %25")
    return fields


def unquote_string(value: str) -> str:
    """A header value without double quotes around it (RFC 9110, 5.6.4), as the HTTP binding requires."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


class StrictJson(JSONFormat):
    """The SDK's JSON format for the data of binary mode, with strict checks."""

    def read_data(self, body: bytes, datacontenttype: str | None) -> Any:
        if not body:
            return None
        check_data_type(datacontenttype, "header:content-type")
        return parse_json(body, "")


def decode_binary(fields: dict[str, str], body: bytes) -> Incoming:
    # In binary mode, the Content-Type header is this attribute.
    fields.pop("ce-datacontenttype", None)
    attributes = {name.removeprefix("ce-"): unquote(value) for name, value in fields.items() if name.startswith("ce-")}
    check_required(attributes, "header:ce-")
    if "time" in attributes:
        parse_time(attributes["time"], "header:ce-time")
    if attributes["type"] == PING:
        fields, body = {name: value for name, value in fields.items() if name != "content-type"}, b""
    try:
        return read_event(from_binary(HTTPMessage(fields, body), StrictJson(), CloudEvent), "header:ce-")
    except CloudEventValidationError as error:
        raise describe_fault(error, "header:ce-") from None


def decode_batch(body: bytes) -> list[Incoming]:
    documents = parse_json(body, "")
    if not isinstance(documents, list):
        raise invalid("", "array", "must be a JSON array of CloudEvents")
    return [decode_document(document, f"/{index}") for index, document in enumerate(documents)]


def decode_document(document: Any, pointer: str) -> Incoming:
    """An event in the JSON format, which is at `pointer` of the body."""
    try:
        return read_event(make_event(document, pointer), f"{pointer}/")
    except CloudEventValidationError as error:
        raise describe_fault(error, f"{pointer}/") from None


def make_event(document: Any, pointer: str) -> CloudEvent:
    if not isinstance(document, dict):
        raise invalid(pointer, "object", "must be a JSON object, a CloudEvent")
    check_required(document, f"{pointer}/")
    if document["type"] == PING:
        document = {name: value for name, value in document.items() if name not in DATA_ATTRIBUTES}
    if "data" in document and "data_base64" in document:
        raise invalid(f"{pointer}/data_base64", "repeated_data", "must not be sent together with data")
    content = document.pop("data", None)
    if "data_base64" in document:
        content = decode_base64(document.pop("data_base64"), f"{pointer}/data_base64")
    attributes = {name: value for name, value in document.items() if value is not None}
    for name, value in attributes.items():
        if isinstance(value, dict | list):
            raise invalid(f"{pointer}/{name}", "attribute", "must be a string, a number or a boolean")
    check_data_type(attributes.get("datacontenttype"), f"{pointer}/datacontenttype")
    if "time" in attributes:
        attributes["time"] = parse_time(attributes["time"], f"{pointer}/time")
    return CloudEvent(attributes, content)


def decode_base64(text: object, pointer: str) -> Any:
    try:
        content = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        content = None
    if content is None:
        raise invalid(pointer, "base64", "must be base64")
    return parse_json(content, pointer)


def read_event(event: BaseCloudEvent, prefix: str) -> Incoming:
    trace = event.get_extension("traceparent")
    return Incoming(
        event.get_id(),
        event.get_source(),
        event.get_type(),
        trace if isinstance(trace, str) else None,
        event.get_data(),
        prefix,
    )


def check_required(attributes: Mapping[str, Any], prefix: str) -> None:
    """Raises InvalidEvent with the required attributes that are missing, empty, too long or not text."""
    faults = []
    for name in REQUIRED_ATTRIBUTES:
        value = attributes.get(name)
        if value is None or value == "":
            faults.append(FieldError(prefix + name, "missing", "is required"))
        elif not isinstance(value, str) or len(value.encode("utf-8", "replace")) > MAX_NAME_BYTES or "\0" in value:
            faults.append(FieldError(prefix + name, "attribute", f"must be text of up to {MAX_NAME_BYTES} bytes"))
        elif name == "specversion" and value != "1.0":
            faults.append(FieldError(prefix + name, "specversion", "must be 1.0"))
    if faults:
        raise InvalidEvent(errors=faults)


def check_data_type(content_type: object, pointer: str) -> None:
    """Raises InvalidEvent when the content type of the data is not JSON. Without a content type, it is JSON."""
    if content_type is None:
        return
    media_type = parse_media_type(content_type) if isinstance(content_type, str) else None
    if media_type is None or not JSON_TYPE.fullmatch(media_type.name):
        raise invalid(pointer, "content_type", "must be application/json")
    if not media_type.is_utf8:
        raise UnsupportedMediaType(NOT_UTF8)


def parse_time(text: object, pointer: str) -> datetime:
    try:
        moment: datetime | None = isoparse(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid(pointer, "time", "must be an RFC 3339 time with an offset")
    return moment


def parse_json(text: str | bytes, pointer: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(pointer, "json", f"must be JSON in UTF-8: {error.msg}") from None


def describe_fault(error: CloudEventValidationError, prefix: str) -> InvalidEvent:
    faults = [FieldError(prefix + name, "attribute", "is not valid in CloudEvents 1.0") for name in error.errors]
    return InvalidEvent(errors=faults)


def invalid(pointer: str, code: str, detail: str) -> InvalidEvent:
    return InvalidEvent(errors=[FieldError(pointer, code, detail)])
