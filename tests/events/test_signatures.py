"""Signatures of events: what the reference implementation of Standard Webhooks accepts, and what it refuses."""

import asyncio
import time
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from support.application import running
from support.event_sink import Received, Sink
from support.rotation import check, replica
from support.secret_files import SecretFolder
from support.settings import API_KEY, ENCRYPTION_KEY, make_settings
from user_service.events.signatures import make_signature_headers
from user_service.values.signing_secrets import parse_signing_secrets

FIRST, SECOND, OTHER = (f"whsec_{b64encode(bytes(range(start, start + 32))).decode()}" for start in (0, 32, 64))


def verify(received: Received, secret: str) -> None:
    # The JSON that it returns is of no interest; the body is signed as it is.
    Webhook(secret).verify(received.body, received.headers)


@given(event_id=st.text("0123456789abcdef-", min_size=1), body=st.binary(), secret=st.binary(min_size=24, max_size=64))
def test_the_signature_is_that_of_the_reference(event_id: str, body: bytes, secret: bytes) -> None:
    now = int(time.time())

    headers = make_signature_headers(event_id, b'"%s"' % body.hex().encode(), [secret], timestamp=now)

    reference = Webhook(b64encode(secret).decode())
    assert reference.verify(b'"%s"' % body.hex().encode(), headers) == body.hex()
    with pytest.raises(WebhookVerificationError):
        reference.verify(b'"%s!"' % body.hex().encode(), headers)


def test_each_of_several_secrets_verifies_and_another_one_does_not() -> None:
    headers = make_signature_headers(
        "e1", b"{}", parse_signing_secrets(f"{FIRST}, {SECOND}"), timestamp=int(time.time())
    )

    for secret in (FIRST, SECOND):
        assert Webhook(secret).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(b"{}", headers)


async def test_an_event_is_signed_anew_at_each_attempt(database_url: str, tmp_path: Path, sink: Sink) -> None:
    sink.answer = lambda _: 503 if not sink.seen else 204
    settings = make_settings(
        database_url, tmp_path, event_sink_url=sink.url, event_sink_secret=parse_signing_secrets(FIRST)
    )
    async with running(settings) as client:
        await client.make()
        await asyncio.to_thread(sink.wait_for, 1)

    first, second = sink.seen
    for received in (first, second):
        verify(received, FIRST)
        assert received.headers["webhook-id"] == received.id
        with pytest.raises(WebhookVerificationError):
            verify(received, OTHER)


async def test_without_a_secret_nothing_is_signed(database_url: str, tmp_path: Path, sink: Sink) -> None:
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        await client.make()
        (received,) = await asyncio.to_thread(sink.wait_for, 1)

    assert not [name for name in received.headers if name.startswith("webhook-")]


async def test_a_secret_is_replaced_while_the_service_runs(database_url: str, tmp_path: Path, sink: Sink) -> None:
    secrets = SecretFolder(
        tmp_path / "secrets", ENCRYPTION_KEY=ENCRYPTION_KEY, INTERNAL_API_KEY=API_KEY, EVENT_SINK_SECRET=FIRST
    )
    async with replica(database_url, secrets, K_SINK=sink.url) as client:
        await check(client)
        await client.make()
        await asyncio.to_thread(sink.wait_for, 1)
        secrets.swap(EVENT_SINK_SECRET=f"{FIRST},{SECOND}")
        await check(client)
        await client.make()
        await asyncio.to_thread(sink.wait_for, 2)
        secrets.swap(EVENT_SINK_SECRET="whsec_short")
        outcomes = await check(client)
        await client.make()
        await asyncio.to_thread(sink.wait_for, 3)
        secrets.swap(EVENT_SINK_SECRET=SECOND)
        await check(client)
        await client.make()
        alone, both, kept, last = await asyncio.to_thread(sink.wait_for, 4)

    assert outcomes["refused"] == 1
    verify(alone, FIRST)
    for received in (both, kept):
        verify(received, FIRST)
        verify(received, SECOND)
    verify(last, SECOND)
    for received, secret in ((alone, SECOND), (last, FIRST)):
        with pytest.raises(WebhookVerificationError):
            verify(received, secret)
