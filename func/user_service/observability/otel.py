"""Tracing with OpenTelemetry, over OTLP/HTTP. Its own variables (OTEL_*) say where to, how much and by which name."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span

from user_service import __version__
from user_service.observability.request_span import TracedRequestContext, context_of, traceparent_of_span
from user_service.web.request_context import RequestContext

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

CLOSE_SECONDS: Final = 2.0
NAME: Final = "service.name"


class Telemetry:
    """`Tracing` into one collector."""

    def __init__(self) -> None:
        self.provider = TracerProvider(resource=describe_service(), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self.provider.get_tracer("user_service", __version__)

    def context(self, method: str, headers: Mapping[bytes, bytes]) -> RequestContext:
        return TracedRequestContext(method, headers, self.tracer)

    @contextmanager
    def sql(self, statement: str) -> Iterator[None]:
        with self.child(verb_of(statement), sql_attributes(statement)):
            yield

    @contextmanager
    def redis(self, operation: str) -> Iterator[None]:
        with self.child(f"redis {operation}", {"db.system.name": "redis", "db.operation.name": operation}):
            yield

    @contextmanager
    def child(self, name: str, attributes: Mapping[str, str]) -> Iterator[None]:
        """A client's span under the current one; none where nothing is traced, as in the background."""
        if not get_current_span().is_recording():
            yield
            return
        with self.tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                fail(span, error)
                raise

    @contextmanager
    def consume(self, event_type: str, traceparent: str | None) -> Iterator[str]:
        request = get_current_span().get_span_context()
        attributes = {"messaging.operation.type": "process", "cloudevents.event_type": event_type}
        with self.tracer.start_as_current_span(
            f"process {event_type}",
            context=context_of(traceparent),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(request)],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield traceparent_of_span(span)
            except BaseException as error:
                fail(span, error)
                raise

    @contextmanager
    def publish(self, event_type: str, traceparent: str) -> Iterator["PublishedEvent"]:
        attributes = {"messaging.operation.type": "send", "cloudevents.event_type": event_type}
        with self.tracer.start_as_current_span(
            f"publish {event_type}",
            context=context_of(traceparent),
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,
        ) as span:
            yield PublishedEvent(span)

    def watch_engine(self, engine: "AsyncEngine") -> None:
        from sqlalchemy import event

        def begin(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if get_current_span().is_recording():
                span = self.tracer.start_span(
                    verb_of(statement), kind=SpanKind.CLIENT, attributes=sql_attributes(statement)
                )
                connection.info["span"] = span

        def end(connection: Any, *_: Any) -> None:
            if span := connection.info.pop("span", None):
                span.end()

        def end_failed(failure: Any) -> None:
            connection = failure.connection
            if connection is not None and (span := connection.info.pop("span", None)):
                fail(span, failure.original_exception)
                span.end()

        event.listen(engine.sync_engine, "before_cursor_execute", begin)
        event.listen(engine.sync_engine, "after_cursor_execute", end)
        event.listen(engine.sync_engine, "handle_error", end_failed)

    async def close(self) -> None:
        # A daemon, since a collector that is away must not hold the process back.
        sending = Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, CLOSE_SECONDS)


class PublishedEvent:
    """A `Publication` and its span."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.traceparent = traceparent_of_span(span)

    def ended(self, outcome: str, *, failed: bool) -> None:
        self.span.set_attribute("user_service.outcome", outcome)
        if failed:
            self.span.set_attribute("error.type", outcome)
            self.span.set_status(Status(StatusCode.ERROR))


def describe_service() -> Resource:
    """What the environment says of this service; `user-service` where it gives no name."""
    described = Resource.create({"service.version": __version__})
    if str(described.attributes[NAME]).startswith("unknown_service"):
        return described.merge(Resource({NAME: "user-service"}))
    return described


def verb_of(statement: str) -> str:
    """The first word of a statement, which names its span."""
    return statement.split(None, 1)[0].upper() if statement.strip() else "SQL"


def sql_attributes(statement: str) -> dict[str, str]:
    """The statement itself holds no values: they all travel as parameters."""
    return {"db.system.name": "postgresql", "db.operation.name": verb_of(statement), "db.query.text": statement.strip()}


def fail(span: Span, error: BaseException) -> None:
    """Marks a span as failed by the error's type: its message may quote data."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
