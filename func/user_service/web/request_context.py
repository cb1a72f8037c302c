"""One request, from its head to the end of its response: ids, principal, rate limit, metrics, log line and span."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

from user_service.bootstrap import Resources
from user_service.errors import ServiceError
from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.observability.tracing import RequestSpan, Tracing
from user_service.security.principals import Principal
from user_service.security.rate_limits import Allowance
from user_service.users.change_log import Origin
from user_service.values.time_limits import TimeLimit
from user_service.web.change_reason import CHANGE_REASON, parse_reason
from user_service.web.responses import RawResponse, render_problem, render_scim_error

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED: Final = "unmatched"


def read_headers(lines: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; several lines of one name are one list (RFC 9110, 5.3)."""
    headers = dict(lines)
    if len(headers) != len(lines):
        headers.clear()
        for name, value in lines:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


class RequestContext:
    """What is known of a request. With `tracing`, its span is the current one until `finish`."""

    __slots__ = (
        "allowance",
        "deadline",
        "headers",
        "is_scim",
        "method",
        "principal",
        "request_id",
        "response_started",
        "route",
        "rows",
        "span",
        "started",
        "status",
        "traceparent",
    )

    def __init__(self, method: str, headers: Mapping[bytes, bytes], tracing: Tracing | None = None) -> None:
        self.started = perf_counter()
        self.method = method if method in METHODS else "OTHER"
        self.headers = headers
        self.request_id = choose_request_id(headers.get(b"x-request-id"))
        self.span: RequestSpan | None = None
        if tracing is None:
            self.traceparent = continue_trace(headers.get(b"traceparent"))
        else:
            self.span = tracing.start_request(self.method, headers)
            self.traceparent = self.span.traceparent
        # Whether errors have SCIM's form.
        self.is_scim = False
        self.principal: Principal | None = None
        self.allowance: Allowance | None = None
        self.deadline: TimeLimit | None = None
        self.route = UNMATCHED
        self.status = 500
        self.response_started = False
        # The number of users returned or changed; None for requests about anything else.
        self.rows: int | None = None

    @property
    def own_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of every response."""
        headers = (
            (b"x-request-id", self.request_id),
            (b"traceparent", self.traceparent),
            (b"x-content-type-options", b"nosniff"),
        )
        return headers if self.allowance is None else headers + self.allowance.headers

    @property
    def principal_kind(self) -> str | None:
        return self.principal.kind if self.principal is not None else None

    @property
    def origin(self) -> Origin:
        """The actor, request id, trace context and reason of changes that this request makes. Raises InvalidHeader."""
        assert self.principal is not None
        reason = parse_reason(self.headers.get(CHANGE_REASON))
        return Origin(self.principal.name, self.request_id.decode(), self.traceparent.decode(), reason)

    async def charge(self, items: int) -> None:
        """Counts a batch of `items` against the principal's rate limit. Raises RateLimited."""
        if self.allowance is not None:
            await self.allowance.charge_items(items)

    def leave_out(self, seconds: float) -> None:
        """Takes a time in which the request only waited for something to happen out of its duration."""
        self.started += seconds

    def render_error(self, error: ServiceError) -> RawResponse:
        """The response of an error: problem details, or SCIM's form."""
        return render_scim_error(error) if self.is_scim else render_problem(error, self.request_id.decode())

    def lift_deadline(self) -> None:
        """Lifts the request's time limit, for streams: the server bounds the pace of their sender instead."""
        if self.deadline is not None:
            self.deadline.lift()

    def finish(self, resources: Resources) -> None:
        """Counts the request, logs it and ends its span."""
        seconds = perf_counter() - self.started
        resources.metrics.requests.observe(self.method, self.route, self.status, seconds)
        if resources.access_log is not None:
            resources.access_log.write(
                {
                    "method": self.method,
                    "route": self.route,
                    "status": self.status,
                    "milliseconds": round(seconds * 1000, 3),
                    "rows": self.rows,
                    "request_id": self.request_id.decode(),
                    "trace_id": self.traceparent[3:35].decode(),
                    "principal": self.principal_kind,
                }
            )
        if self.span is not None:
            self.span.end(
                route=self.route,
                status=self.status,
                request_id=self.request_id.decode(),
                principal_kind=self.principal_kind,
            )
