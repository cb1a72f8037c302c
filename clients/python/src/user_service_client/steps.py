"""The behaviour of the client without I/O: operations are generators of steps, which a runner performs.

A runner (runners.py) sends the result of each step back into the generator, or throws httpx2.RequestError into it.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import count
from time import monotonic
from typing import Any, Generic, TypeVar

import httpx2

from user_service_client.decoding import decode
from user_service_client.errors import ConnectionFailed, UnexpectedResponse, UserServiceError, make_error
from user_service_client.models import FileFormat

T = TypeVar("T")
logger = logging.getLogger("user_service_client")
PIECE_BYTES = 64 * 1024
MEDIA_TYPES: dict[FileFormat, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
# Beyond this, a doubled pause is the longest one in any case.
MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is percent-encoded and has the query; a body that is read from a file is made anew for each try.

    `watch` is performed again and again while the request is under way.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], Iterator[bytes]] | None = None
    extra_seconds: float = 0
    watch: Callable[[], Steps[None]] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; `body` is empty where the steps read it piece by piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Gives a Reply. With `is_stream`, the body of a success is left to ReadPiece."""

    request: Request
    timeout_seconds: float
    is_stream: bool = False


@dataclass(frozen=True, slots=True)
class ReadPiece:
    """Gives the next bytes of the open stream, None at its end."""


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Gives the result of a function that reads files; it must not hold up an event loop."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hands a value to the caller of an iterator, and goes on when the caller asks for the next one."""

    value: T


Step = Send | ReadPiece | Sleep | Work | Emit[Any]
Steps = Generator[Step, Any, T]
Emits = Generator[Send | ReadPiece | Sleep | Work | Emit[T], Any, None]
Parse = Callable[[Reply], T]


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a request is tried again: until `deadline_seconds` after its start; 0 for a single try.

    Pauses double from the first to the longest one, and are spread at random. `Retry-After` is kept in any case.
    """

    deadline_seconds: float = 60
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 10

    def pause_seconds(self, failures: int, retry_after_seconds: float | None) -> float:
        doubled = self.first_pause_seconds * 2 ** min(failures, MAX_DOUBLINGS)
        return (retry_after_seconds or 0) + random.uniform(  # noqa: S311 - no secret
            0, min(doubled, self.longest_pause_seconds)
        )


def exchange(
    request: Request, parse: Parse[T], retry: Retry, *, timeout_seconds: float, is_stream: bool = False
) -> Steps[T]:
    """The parsed response to a request, which is repeated while its failure is transient and the deadline allows it.

    The first try has `timeout_seconds`, a further one no more than is left until the deadline, but at least a second.
    Every request of this client may be repeated: it reads, or has an Idempotency-Key, which is the same in each try.
    Raises UserServiceError.
    """
    deadline = monotonic() + retry.deadline_seconds
    request = replace(request, headers={**request.headers, **trace_headers()})
    for failures in count():
        timeout = timeout_seconds if failures == 0 else max(1.0, min(timeout_seconds, deadline - monotonic()))
        try:
            reply = yield Send(request, timeout + request.extra_seconds, is_stream)
            check_status(reply)
            return parse(reply)
        except httpx2.RequestError as cause:
            failure: UserServiceError = connection_failed(cause)
            failure.__cause__ = cause
        except UserServiceError as error:
            failure = error
        pause = retry.pause_seconds(failures, failure.retry_after_seconds)
        if not failure.is_transient or monotonic() + pause > deadline:
            raise failure
        logger.warning("%s; the request is repeated in %.1f s", failure, pause)
        yield Sleep(pause)
    raise AssertionError("unreachable")


def connection_failed(cause: httpx2.RequestError) -> ConnectionFailed:
    is_wrong_request = isinstance(cause, (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol))
    url = cause.request.url
    where = f"{url.scheme}://{url.netloc.decode('ascii')}"
    return ConnectionFailed(f"No response from {where} ({type(cause).__name__})", is_transient=not is_wrong_request)


def check_status(reply: Reply) -> None:
    """Raises ServiceError or UnexpectedResponse unless the response is a success."""
    if 200 <= reply.status < 300:
        return
    try:
        if not media_type(reply).endswith("json"):
            raise ValueError("not JSON")
        error: UserServiceError = make_error(reply.status, json.loads(reply.body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        error = UnexpectedResponse(reply.status, "no problem document")
    error.retry_after_seconds = parse_retry_after(reply.headers.get("retry-after"))
    raise error


def parse_retry_after(text: str | None) -> float | None:
    """Seconds from now, of a number or an HTTP date; None for what is neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def media_type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def load_json(reply: Reply) -> Any:
    """Raises UnexpectedResponse."""
    try:
        if media_type(reply) != "application/json":
            raise ValueError("not JSON")
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise UnexpectedResponse(reply.status, "no JSON") from None


def parse_as(kind: type[T]) -> Parse[T]:
    def parse(reply: Reply) -> T:
        document = load_json(reply)
        try:
            return decode(kind, document)
        except ValueError as error:
            raise UnexpectedResponse(reply.status, str(error)) from None

    return parse


def expect(media: str) -> Parse[None]:
    """Passes a response of this media type, whose body is read piece by piece; others raise UnexpectedResponse."""

    def check(reply: Reply) -> None:
        if media_type(reply) != media:
            raise UnexpectedResponse(reply.status, f"not {media}")

    return check


def read_pieces(emit: Callable[[bytes], Iterable[Emit[T]]]) -> Emits[T]:
    """What `emit` makes of each piece of the open stream. Raises ConnectionFailed where it is cut off."""
    try:
        while (piece := (yield ReadPiece())) is not None:
            yield from emit(piece)
    except httpx2.RequestError as cause:
        raise connection_failed(cause) from cause


def read_lines(emit: Callable[[bytes], Iterable[Emit[T]]]) -> Emits[T]:
    """The same of each whole line. Raises UnexpectedResponse too, for half a line at the end."""
    rest = b""

    def emit_lines(piece: bytes) -> Iterator[Emit[T]]:
        nonlocal rest
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield from emit(line)

    yield from read_pieces(emit_lines)
    if rest:
        raise UnexpectedResponse(200, "half a line")


def parse_line(kind: type[T], what: str) -> Callable[[bytes], T]:
    """Parses lines of NDJSON. One of another kind raises UnexpectedResponse, which says that it is no `what`."""

    def parse(line: bytes) -> T:
        try:
            return decode(kind, json.loads(line))
        except (ValueError, RecursionError):
            raise UnexpectedResponse(200, f"a line that is no {what}") from None

    return parse


def parse_nothing(reply: Reply) -> None:
    if reply.status != 204:
        raise UnexpectedResponse(reply.status, "204 was expected")


def trace_headers() -> dict[str, str]:
    """`traceparent` and `tracestate` of the current span, where the program uses OpenTelemetry."""
    if "opentelemetry" not in sys.modules:
        return {}
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return {}
    carrier: dict[str, str] = {}
    inject(carrier)
    return {name: carrier[name] for name in ("traceparent", "tracestate") if name in carrier}
