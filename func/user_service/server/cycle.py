"""An answer in one write. uvicorn writes head and body apart: two system calls, each of which wakes the client."""

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

CONTROLS: Final = bytes({*range(0x20), 0x7F} - {0x09})
WITHOUT_BODY: Final = frozenset({204, 304})


class OneWriteCycle(RequestResponseCycle):
    """Holds the head until the body begins, as ASGI has it, and writes both together where the body is all there.

    What is streamed, has no length or is not well formed is left to uvicorn.
    """

    # The start of the answer, until its body begins.
    held: dict[str, Any] | None = None

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            self.held = message  # type: ignore[assignment]
            return
        if self.held is not None:
            held, self.held = self.held, None
            if message["type"] == "http.response.body" and not message.get("more_body"):
                answer = self.whole(held, message.get("body", b""))
                if answer is not None and not self.flow.write_paused and not self.disconnected:
                    self.finish(answer)
                    return
            await super().send(held)  # type: ignore[arg-type]
        await super().send(message)

    def whole(self, start: dict[str, Any], body: bytes) -> bytes | None:
        """The bytes of an answer; None where uvicorn has to frame it, or to refuse it."""
        status = start["status"]
        headers = [*self.default_headers, *start.get("headers", ())]
        named = dict(headers)
        if b"connection" in named or b"transfer-encoding" in named:
            return None
        if self.scope["method"] == "HEAD":
            body = b""
        elif named.get(b"content-length") != (None if status in WITHOUT_BODY else b"%d" % len(body)):
            return None
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"\r\n".join(map(b": ".join, headers))
        # Nothing but the ends of the lines may be a control character, or a value could make up lines of its own.
        if len(lines.translate(None, CONTROLS)) != len(lines) - 2 * (len(headers) - 1):
            return None
        return b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], lines, body)

    def finish(self, answer: bytes) -> None:
        self.response_started = self.response_complete = True
        self.transport.write(answer)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
