"""The sink of events: an HTTP endpoint that accepts CloudEvents 1.0, signed where it has a secret.

Changes are posted in binary mode, replayed dead letters in structured mode."""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import orjson
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event
from cloudevents.core.v1.event import CloudEvent

from user_service.errors import ConfigurationError
from user_service.events.signatures import make_signature_headers
from user_service.events.types import PendingChange
from user_service.observability.tracing import Tracing
from user_service.settings import Settings

POST_SECONDS: Final = 10.0
POSTS_AT_ONCE: Final = 16
# Statuses that are about the sink, not about the event: other events get them too, or a later attempt does not.
RETRIED: Final = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 421, 423, 424, 425, 426, 429, 451})


class DeliveryOutcome(Enum):
    """The outcome of a post: accepted, failed because of the sink, or refused because of the event."""

    PUBLISHED = "published"
    FAILED = "failed"
    REFUSED = "refused"


class Sink(Protocol):
    async def post(self, change: PendingChange) -> tuple[DeliveryOutcome, str]:
        """The outcome and a reason for the log. Raises nothing, whatever the sink does."""

    async def close(self) -> None: ...


class HttpSink:
    """Posts to one URL. Make it on a running loop."""

    def __init__(
        self,
        url: str,
        *,
        source: str,
        extensions: Mapping[str, str],
        ca_certs: str | None,
        secrets: Callable[[], Sequence[bytes]],
        token_file: Path | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`secrets` gives those that sign the next attempt; `token_file` is read at each attempt, if it is there."""
        self.url = url
        self.token_file = token_file
        self.secrets = secrets
        self.source = source
        self.tracing = tracing
        self.extensions = extensions
        context = ssl.create_default_context()
        if ca_certs is not None:
            try:
                context.load_verify_locations(cadata=ca_certs)
            except ssl.SSLError:
                raise ConfigurationError("K_CA_CERTS: expected certificates in PEM") from None
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=POSTS_AT_ONCE),
            timeout=aiohttp.ClientTimeout(total=POST_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "user-service"},
        )

    async def post(self, change: PendingChange) -> tuple[DeliveryOutcome, str]:
        if self.tracing is None:
            return await self.send(self.make_message(change), str(change.event_id))
        with self.tracing.publish(change.type, change.traceparent) as publication:
            # The extension keeps the trace of the change; the header has the span of this attempt.
            message = self.make_message(change, traceparent=publication.traceparent)
            outcome, reason = await self.send(message, str(change.event_id))
            publication.set_outcome(outcome.value, failed=outcome is not DeliveryOutcome.PUBLISHED)
            return outcome, reason

    async def send(self, message: HTTPMessage, event_id: str) -> tuple[DeliveryOutcome, str]:
        proofs = make_signature_headers(event_id, message.body, self.secrets(), timestamp=int(time.time()))
        proofs |= self.make_token_header()
        headers = {**message.headers, **proofs}
        try:
            async with self.session.post(
                self.url, data=message.body, headers=headers, allow_redirects=False
            ) as response:
                return classify(response.status), str(response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return DeliveryOutcome.FAILED, type(error).__name__

    def make_message(self, change: PendingChange, *, traceparent: str | None = None) -> HTTPMessage:
        attributes: dict[str, Any] = {**change.attributes(self.source), **self.extensions}
        # The SDK writes data other than an object in its Python form, so it gets bytes.
        message = to_binary_event(CloudEvent(attributes, orjson.dumps(change.data)))
        return HTTPMessage({**message.headers, "traceparent": traceparent or change.traceparent}, message.body)

    def make_token_header(self) -> dict[str, str]:
        """The identity that a SinkBinding gives the pod, for a broker with OIDC; Kubernetes replaces its file."""
        if self.token_file is None:
            return {}
        try:
            return {"authorization": f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"}
        except (OSError, ValueError):
            return {}

    async def close(self) -> None:
        await self.session.close()


def classify(status: int) -> DeliveryOutcome:
    if 200 <= status < 300:
        return DeliveryOutcome.PUBLISHED
    return DeliveryOutcome.REFUSED if 400 <= status < 500 and status not in RETRIED else DeliveryOutcome.FAILED


def open_sink(
    settings: Settings, tracing: Tracing | None = None, *, secrets: Callable[[], Sequence[bytes]] | None = None
) -> HttpSink:
    """The sink of settings that name one; `secrets` gives those in force where they may change.

    Raises ConfigurationError when K_CA_CERTS can't be read.
    """
    assert settings.sink_url is not None
    return HttpSink(
        settings.sink_url,
        source=settings.event_source,
        extensions=settings.k_ce_overrides,
        ca_certs=settings.k_ca_certs,
        # A token for the broker is for no other sink.
        token_file=settings.k_sink_token_file if settings.k_sink is not None else None,
        secrets=secrets or (lambda: settings.event_sink_secret),
        tracing=tracing,
    )
