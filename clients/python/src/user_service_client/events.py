"""Events of the service, as a broker or a webhook delivers them: CloudEvents 1.0 over HTTP, binary or structured."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from user_service_client.decoding import decode
from user_service_client.errors import InvalidEvent
from user_service_client.models import ChangeType, Status

PREFIX, SUFFIX = "org.userservice.user.", ".v1"
CHANGE_TYPES = frozenset(ChangeType.__args__)  # type: ignore[attr-defined]
TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class EventData:
    """Names of fields, never their values: read the user for them."""

    id: str
    version: int
    status: Status
    changed: tuple[str, ...]
    actor: str


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A change of a user. `id` is the same in each delivery; of one user, a higher `data.version` is newer."""

    id: str
    source: str
    type: ChangeType
    time: datetime
    data: EventData
    traceparent: str | None = None

    @property
    def user_id(self) -> str:
        return self.data.id


def verify_event(
    headers: Mapping[str, str],
    body: bytes,
    *,
    secret: str | Iterable[str] | None,
    source: str = "/user-service",
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> UserEvent:
    """The event of a request. Raises InvalidEvent.

    `secret` is the sink's secret, or several while it is rotated: the signature (Standard Webhooks) is checked before
    anything else is read. It covers the id and the data of a binary event, not its type and time, which TLS protects.
    None is for a sink that only a broker reaches, which does not sign.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    if secret is not None:
        secrets = [secret] if isinstance(secret, str) else list(secret)
        check_signature(lowered, body, secrets, tolerance_seconds)
    attributes, data = read_attributes(lowered, body)
    if secret is not None and attributes.get("id") not in {lowered["webhook-id"], unquote(lowered["webhook-id"])}:
        raise InvalidEvent("the id is not the signed one")
    kind = str(attributes.get("type"))
    name = kind.removeprefix(PREFIX).removesuffix(SUFFIX)
    if attributes.get("specversion") != "1.0" or kind != f"{PREFIX}{name}{SUFFIX}" or name not in CHANGE_TYPES:
        raise InvalidEvent("not an event about a user")
    if attributes.get("source") != source:
        raise InvalidEvent("an event of another source")
    try:
        fields = {key: attributes.get(key) for key in ("id", "source", "traceparent")}
        event = decode(UserEvent, {**fields, "type": name, "time": attributes.get("time"), "data": data})
    except ValueError as error:
        raise InvalidEvent(f"the event: {error}") from None
    if attributes.get("subject") != event.data.id:
        raise InvalidEvent("the subject is another user than that of the data")
    return event


def read_attributes(headers: Mapping[str, str], body: bytes) -> tuple[Mapping[str, Any], Any]:
    """The attributes and the data, of a structured or a binary event. Raises InvalidEvent."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidEvent("the body is not JSON") from None
    if media != "application/cloudevents+json":
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
        return attributes, document
    if not isinstance(document, dict):
        raise InvalidEvent("the body is not an object")
    return document, document.get("data")


def check_signature(headers: Mapping[str, str], body: bytes, secrets: Iterable[str], tolerance_seconds: float) -> None:
    """Standard Webhooks: HMAC-SHA256 of id, time and body. Raises InvalidEvent, and ValueError for a wrong secret."""
    keys = [decode_secret(secret) for secret in secrets]
    if not keys:
        raise ValueError("secret: none is given")
    try:
        message_id, moment = headers["webhook-id"], headers["webhook-timestamp"]
        is_recent = abs(time.time() - int(moment)) <= tolerance_seconds
        given = [part[3:].encode() for part in headers["webhook-signature"].split() if part.startswith("v1,")]
        content = b".".join([message_id.encode(), moment.encode(), body])
    except (KeyError, ValueError):
        raise InvalidEvent("the event has no signature") from None
    if not is_recent:
        raise InvalidEvent("the signature is too old, or the clocks differ")
    for key in keys:
        expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest())
        if any(hmac.compare_digest(expected, signature) for signature in given):
            return
    raise InvalidEvent("the signature is wrong")


def decode_secret(secret: str) -> bytes:
    """The key of a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`. Raises ValueError."""
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("secret: not base64, as in whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return key
