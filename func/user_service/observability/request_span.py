"""An context with a span of its own (OpenTelemetry's semantic conventions for HTTP servers)."""

from collections.abc import Mapping

from opentelemetry import context
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from user_service.bootstrap import Resources
from user_service.web.request_context import RequestContext

SERVER_ERROR = 500
propagator = TraceContextTextMapPropagator()


class TracedRequestContext(RequestContext):
    """Its span begins with it, is the current one meanwhile, and ends in `finish`."""

    __slots__ = ("span", "token")

    def __init__(self, method: str, headers: Mapping[bytes, bytes], tracer: Tracer) -> None:
        super().__init__(method, headers)
        self.span = tracer.start_span(self.method, context=parent_of(headers), kind=SpanKind.SERVER)
        self.token = context.attach(set_span_in_context(self.span))
        self.traceparent = traceparent_of_span(self.span).encode()

    def finish(self, resources: Resources) -> None:
        super().finish(resources)
        self.span.update_name(f"{self.method} {self.route}")
        self.span.set_attribute("http.request.method", self.method)
        self.span.set_attribute("http.route", self.route)
        self.span.set_attribute("http.response.status_code", self.status)
        self.span.set_attribute("user_service.request_id", self.request_id.decode())
        if self.principal is not None:
            self.span.set_attribute("user_service.principal_kind", self.principal.kind)
        if self.status >= SERVER_ERROR:
            self.span.set_attribute("error.type", str(self.status))
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()
        context.detach(self.token)


def parent_of(headers: Mapping[bytes, bytes]) -> context.Context:
    """The caller's context, or an empty one."""
    carrier = {name: headers[name.encode()].decode("latin-1") for name in propagator.fields if name.encode() in headers}
    return propagator.extract(carrier, context=context.Context())


def context_of(traceparent: str | None) -> context.Context | None:
    """The context of a W3C traceparent; None, which is the current one, where there is none or a malformed one."""
    found = propagator.extract({"traceparent": traceparent or ""}, context=context.Context())
    return found or None


def traceparent_of_span(span: Span) -> str:
    own = span.get_span_context()
    return f"00-{format_trace_id(own.trace_id)}-{format_span_id(own.span_id)}-{own.trace_flags:02x}"
