"""verify_event: what a sink of the service receives, and what it must not take for it."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.event_sink import Sink
from support.process import serving
from support.settings import API_KEY
from support.waiting import wait_until
from user_service.events.types import PendingChange
from user_service_client import Client, InvalidEvent, verify_event

# The example of the specification of Standard Webhooks, which has a body of its own.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
USER = "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"
DATA = {"id": USER, "version": 2, "status": "active", "changed": ["given_name"], "actor": "api-key:billing"}
HEADERS = {
    "Content-Type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "0198c5a4-8a44-7d31-8f0e-6b1d2c3e4f5a",
    "Ce-Source": "/user-service",
    "ce-type": "org.userservice.user.updated.v1",
    "ce-subject": USER,
    "ce-time": "2026-01-31T12:00:00.123456Z",
    "ce-sequence": "2",
    "ce-partitionkey": USER,
    "ce-traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


def sign(body: bytes, secret: str = SECRET, *, moment: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if moment is None else moment))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, b".".join([HEADERS["ce-id"].encode(), stamp.encode(), body]), hashlib.sha256).digest()
    signature = "v1a,zzzz v1," + base64.b64encode(digest).decode()
    return {"webhook-id": HEADERS["ce-id"], "Webhook-Timestamp": stamp, "webhook-signature": signature}


def structured(**changes: Any) -> bytes:
    event = {name[3:].lower(): value for name, value in HEADERS.items() if name.lower().startswith("ce-")}
    return json.dumps(event | {"datacontenttype": "application/json", "data": DATA} | changes).encode()


def test_a_binary_event_is_read() -> None:
    event = verify_event(HEADERS, json.dumps(DATA).encode(), secret=None)

    assert (event.id, event.type, event.user_id) == (HEADERS["ce-id"], "updated", USER)
    assert (event.data.version, event.data.changed, event.data.actor) == (2, ("given_name",), "api-key:billing")
    assert event.time.isoformat() == "2026-01-31T12:00:00.123456+00:00"
    assert event.traceparent == HEADERS["ce-traceparent"]


def test_a_structured_event_is_the_same_as_a_binary_one() -> None:
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}

    event = verify_event(headers, structured(), secret=None)

    assert event == verify_event(HEADERS, json.dumps(DATA).encode(), secret=None)


def test_the_attributes_and_data_are_those_that_the_service_makes() -> None:
    named = set(PendingChange._fields)
    assert {"version", "status", "changed", "actor"} <= named
    assert set(PendingChange.data.fget.__code__.co_consts[-1]) == set(DATA)  # type: ignore[union-attr, index]


def test_the_example_of_the_specification_is_accepted() -> None:
    """Only its signature: it is no event of this service."""
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    with pytest.raises(InvalidEvent, match="the id is not the signed one"):
        verify_event(headers, body, secret=SECRET, tolerance_seconds=1e12)
    with pytest.raises(InvalidEvent, match="too old"):
        verify_event(headers, body, secret=SECRET)


def test_a_signature_by_one_of_the_secrets_is_accepted() -> None:
    body = json.dumps(DATA).encode()
    other = "whsec_" + base64.b64encode(b"another key of 24 bytes!").decode()

    event = verify_event({**HEADERS, **sign(body)}, body, secret=[other, SECRET])

    assert event.user_id == USER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"webhook-signature": "v1,AAAA"}, "the signature is wrong"),
        ({"webhook-signature": "é"}, "the signature is wrong"),
        ({"webhook-id": "msg_2"}, "the signature is wrong"),
        ({"Webhook-Timestamp": "1"}, "too old"),
        ({"Webhook-Timestamp": "soon"}, "no signature"),
        ({"Webhook-Timestamp": "9" * 5000}, "no signature"),
    ],
)
def test_a_wrong_signature_is_refused(changes: dict[str, str], said: str) -> None:
    body = json.dumps(DATA).encode()

    with pytest.raises(InvalidEvent, match=said):
        verify_event({**HEADERS, **sign(body), **changes}, body, secret=SECRET)


def test_the_id_is_the_signed_one() -> None:
    body = json.dumps(DATA).encode()

    with pytest.raises(InvalidEvent, match="the id is not the signed one"):
        verify_event({**HEADERS, **sign(body), "ce-id": "0198c5a4-8a44-7d31-8f0e-000000000000"}, body, secret=SECRET)


def test_what_the_service_signs_and_sends_is_read(
    database_url: str, tmp_path: Path, sink: Sink, address: Callable[[], str]
) -> None:
    environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": sink.url, "EVENT_SINK_SECRET": SECRET}
    with (
        serving(tmp_path, APP_ENV="production", **environ) as service,
        Client(service.url, api_key=API_KEY) as client,
    ):
        user = client.users.create(email=address())
        client.users.suspend(user)
        wait_until(lambda: len(sink.taken) >= 2, "two events")
    events = [verify_event(each.headers, each.body, secret=SECRET) for each in sink.taken]

    assert [(event.type, event.user_id, event.data.version) for event in events] == [
        ("created", user.id, 1),
        ("status_changed", user.id, 2),
    ]
    with pytest.raises(InvalidEvent):
        verify_event(sink.taken[0].headers, sink.taken[1].body, secret=SECRET)


def test_an_unsigned_event_is_refused_where_a_secret_is_given() -> None:
    with pytest.raises(InvalidEvent, match="no signature"):
        verify_event(HEADERS, json.dumps(DATA).encode(), secret=SECRET)
    with pytest.raises(InvalidEvent, match="wrong"):
        verify_event({**HEADERS, **sign(b"other")}, json.dumps(DATA).encode(), secret=SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64!"])
def test_a_wrong_secret_is_a_fault_of_the_program(secret: str) -> None:
    body = json.dumps(DATA).encode()

    with pytest.raises(ValueError, match="secret"):
        verify_event({**HEADERS, **sign(body)}, body, secret=secret)
    with pytest.raises(ValueError, match="secret"):
        verify_event({**HEADERS, **sign(body)}, body, secret=[])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        structured(type="org.userservice.user.lost.v1"),
        structured(type="org.userservice.batch.create.v1"),
        structured(type=7),
        structured(source="/another"),
        structured(subject="0198c5a4-7d10-7cc2-9b1e-000000000000"),
        structured(specversion="0.3"),
        structured(time="yesterday"),
        structured(data=None),
        structured(data={**DATA, "version": "2"}),
        structured(data={**DATA, "changed": "given_name"}),
    ],
    ids=lambda body: body[:20].decode("latin-1") + body[-40:].decode("latin-1"),
)
def test_what_is_no_event_of_the_service_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidEvent):
        verify_event({"content-type": "application/cloudevents+json"}, body, secret=None)
