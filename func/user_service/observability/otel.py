"""Tracing with OpenTelemetry, over OTLP/HTTP. Its own variables (OTEL_*) name the endpoint, sampling and service."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Final

from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from user_service import __version__
from user_service.errors import SERVER_ERROR

CLOSE_SECONDS: Final = 2.0
SERVICE_NAME: Final = "service.name"
propagator = TraceContextTextMapPropagator()


class OtelTracing:
    """`Tracing` that exports to one collector."""

    def __init__(self) -> None:
        self.provider = TracerProvider(resource=describe_service(), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self.provider.get_tracer("user_service", __version__)

    def start_request(self, method: str, headers: Mapping[bytes, bytes]) -> "OtelRequestSpan":
        parent = extract_context(
            {name: headers.get(name.encode(), b"").decode("latin-1") for name in propagator.fields}
        )
        return OtelRequestSpan(method, self.tracer.start_span(method, context=parent, kind=SpanKind.SERVER))

    @contextmanager
    def sql(self, statement: str) -> Iterator[None]:
        with self.child(first_word(statement), sql_attributes(statement)):
            yield

    @contextmanager
    def redis(self, operation: str) -> Iterator[None]:
        with self.child(f"redis {operation}", {"db.system.name": "redis", "db.operation.name": operation}):
            yield

    @contextmanager
    def child(self, name: str, attributes: Mapping[str, str]) -> Iterator[None]:
        """A client span under the current one; none where no span is recorded, as in background tasks."""
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
            context=parent_context(traceparent),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(request)],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield format_traceparent(span)
            except BaseException as error:
                fail(span, error)
                raise

    @contextmanager
    def publish(self, event_type: str, traceparent: str) -> Iterator["OtelPublicationSpan"]:
        attributes = {"messaging.operation.type": "send", "cloudevents.event_type": event_type}
        with self.tracer.start_as_current_span(
            f"publish {event_type}",
            context=parent_context(traceparent),
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,
        ) as span:
            yield OtelPublicationSpan(span)

    async def close(self) -> None:
        # A daemon thread: an unreachable collector must not keep the process from ending.
        exporting = Thread(target=self.provider.shutdown, daemon=True)
        exporting.start()
        await asyncio.to_thread(exporting.join, CLOSE_SECONDS)


class OtelRequestSpan:
    """A `RequestSpan` with the attributes of OpenTelemetry's semantic conventions for HTTP servers."""

    def __init__(self, method: str, span: Span) -> None:
        self.method = method
        self.span = span
        self.token = context.attach(set_span_in_context(span))
        self.traceparent = format_traceparent(span).encode()

    def end(self, *, route: str, status: int, request_id: str, principal_kind: str | None) -> None:
        self.span.update_name(f"{self.method} {route}")
        self.span.set_attribute("http.request.method", self.method)
        self.span.set_attribute("http.route", route)
        self.span.set_attribute("http.response.status_code", status)
        self.span.set_attribute("user_service.request_id", request_id)
        if principal_kind is not None:
            self.span.set_attribute("user_service.principal_kind", principal_kind)
        if status >= SERVER_ERROR:
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()
        context.detach(self.token)


class OtelPublicationSpan:
    """A `PublicationSpan`."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.traceparent = format_traceparent(span)

    def set_outcome(self, outcome: str, *, failed: bool) -> None:
        self.span.set_attribute("user_service.outcome", outcome)
        if failed:
            self.span.set_attribute("error.type", outcome)
            self.span.set_status(Status(StatusCode.ERROR))


def describe_service() -> Resource:
    """The service's resource attributes from the environment; `user-service` where it names none."""
    described = Resource.create({"service.version": __version__})
    if str(described.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return described.merge(Resource({SERVICE_NAME: "user-service"}))
    return described


def extract_context(carrier: Mapping[str, str]) -> context.Context:
    """The context of W3C trace headers; an empty one where they are missing or malformed."""
    return propagator.extract({name: value for name, value in carrier.items() if value}, context=context.Context())


def parent_context(traceparent: str | None) -> context.Context | None:
    """The context of a traceparent; None, which is the current one, where it is missing or malformed."""
    return extract_context({"traceparent": traceparent or ""}) or None


def format_traceparent(span: Span) -> str:
    """The W3C traceparent of a span."""
    own = span.get_span_context()
    return f"00-{format_trace_id(own.trace_id)}-{format_span_id(own.span_id)}-{own.trace_flags:02x}"


def first_word(statement: str) -> str:
    """The first word of an SQL statement in capitals, which names its span; `SQL` for an empty one."""
    return statement.split(None, 1)[0].upper() if statement.strip() else "SQL"


def sql_attributes(statement: str) -> dict[str, str]:
    """The statement's text holds no values: all of them are parameters."""
    return {
        "db.system.name": "postgresql",
        "db.operation.name": first_word(statement),
        "db.query.text": statement.strip(),
    }


def fail(span: Span, error: BaseException) -> None:
    """Marks a span as failed by the error's type: its message may quote data."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
