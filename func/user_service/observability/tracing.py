"""Tracing, where OTEL_EXPORTER_OTLP_ENDPOINT asks for it. Off, nothing of OpenTelemetry is imported."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from user_service.errors import ConfigurationError
from user_service.settings import Settings

if TYPE_CHECKING:
    from user_service.web.request_context import RequestContext

# Makes a span of what is done while the block runs: given a statement, or the name of an operation.
Traced = Callable[[str], AbstractContextManager[object]]


class Publication(Protocol):
    """An event on its way; `traceparent` goes with it."""

    traceparent: str

    def ended(self, outcome: str, *, failed: bool) -> None:
        """Says what became of it."""


class Tracing(Protocol):
    """Spans of requests and of what is done for them. They hold names and numbers, never values."""

    def context(self, method: str, headers: Mapping[bytes, bytes]) -> "RequestContext":
        """An context whose span is the current one until it is finished; in the caller's trace where there is one."""

    def sql(self, statement: str) -> AbstractContextManager[object]:
        """A span of a statement."""

    def redis(self, operation: str) -> AbstractContextManager[object]:
        """A span of a cache operation."""

    def consume(self, event_type: str, traceparent: str | None) -> AbstractContextManager[str]:
        """A span of an event's processing, in the event's own trace where it names one; gives its trace context."""

    def publish(self, event_type: str, traceparent: str) -> "AbstractContextManager[Publication]":
        """A span of an event's way out, below what made the change that it tells of."""

    def watch_engine(self, engine: Any) -> None:
        """Makes spans of an SQLAlchemy engine's statements."""

    async def close(self) -> None:
        """Sends what is left, for two seconds at most."""


def untraced(_: str) -> AbstractContextManager[object]:
    return nullcontext()


def open_tracing(settings: Settings) -> Tracing | None:
    """Tracing as the OTEL_* variables of the environment ask for it, or None.

    Raises ConfigurationError where it is asked for and not installed.
    """
    if not settings.traces_wanted:
        return None
    try:
        from user_service.observability.otel import Telemetry
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: tracing needs {error.name}; "
            "install the extra `tracing`, or unset the variable"
        ) from None
    return Telemetry()
