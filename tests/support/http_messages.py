"""Responses as bytes, for servers of tests that answer what the service would not."""


def problem(status: int, code: str, *headers: str) -> bytes:
    """A problem document of the service."""
    body = f'{{"type": "t", "title": "t", "status": {status}, "detail": "d", "code": "{code}", "request_id": "r1"}}'
    return respond(status, "application/problem+json", body, *headers)


def respond(status: int, media_type: str, body: str, *headers: str) -> bytes:
    """A whole response, after which the connection ends."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", body]).encode()
