"""Tracing, where OTEL_EXPORTER_OTLP_ENDPOINT asks for it. Off, nothing of OpenTelemetry is imported."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from user_service.errors import ConfigurationError
from user_service.settings import Settings

# Given a statement or the name of an operation, makes a span for the time that the block runs.
Traced = Callable[[str], AbstractContextManager[object]]


class RequestSpan(Protocol):
    """The span of one request; the current span until `end`."""

    traceparent: bytes

    def end(self, *, route: str, status: int, request_id: str, principal_kind: str | None) -> None:
        """Names the span after its route and ends it; a status from 500 on is an error."""


class PublicationSpan(Protocol):
    """The span of an outgoing event; the event carries its `traceparent`."""

    traceparent: str

    def set_outcome(self, outcome: str, *, failed: bool) -> None:
        """Records the outcome of the delivery."""


class Tracing(Protocol):
    """Spans of requests, statements, cache operations and events. They hold names and numbers, never values."""

    def start_request(self, method: str, headers: Mapping[bytes, bytes]) -> RequestSpan:
        """A span of a request, in the caller's trace where the headers name one."""

    def sql(self, statement: str) -> AbstractContextManager[object]:
        """A span of a statement."""

    def redis(self, operation: str) -> AbstractContextManager[object]:
        """A span of a cache operation."""

    def consume(self, event_type: str, traceparent: str | None) -> AbstractContextManager[str]:
        """A span of an event's processing, in the event's own trace where it names one. Gives its traceparent."""

    def publish(self, event_type: str, traceparent: str) -> AbstractContextManager[PublicationSpan]:
        """A span of an event's delivery, in the trace of the change that the event reports."""

    async def close(self) -> None:
        """Exports the remaining spans, for two seconds at most."""


def untraced(_: str) -> AbstractContextManager[object]:
    return nullcontext()


def open_tracing(settings: Settings) -> Tracing | None:
    """Tracing as the OTEL_* variables of the environment ask for it, or None.

    Raises ConfigurationError where it is asked for and not installed.
    """
    if not settings.traces_wanted:
        return None
    try:
        from user_service.observability.otel import OtelTracing
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: tracing needs {error.name}; "
            "install the extra `tracing`, or unset the variable"
        ) from None
    return OtelTracing()
