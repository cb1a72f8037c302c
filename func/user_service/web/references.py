"""References to addresses of this service, relative to the request's own address (RFC 3986, 4.2).

They lead to the same place whatever prefix stands before the service's paths: a stage of API Gateway, an ingress.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

Header = tuple[bytes, bytes]


def relative_reference(target: bytes, request_path: bytes) -> bytes:
    """A path of this service as seen from a request; `request_path` is as the client has written it."""
    folder, segments = request_path.split(b"/")[:-1], target.split(b"/")
    common = 0
    while common < min(len(folder), len(segments) - 1) and folder[common] == segments[common]:
        common += 1
    return b"../" * (len(folder) - common) + b"/".join(segments[common:])


def relative_location(headers: Sequence[Header], scope: Mapping[str, Any]) -> list[Header]:
    """The headers of a response with a `Location` that is relative to the request."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    return [
        (name, relative_reference(value, path) if name == b"location" and value.startswith(b"/") else value)
        for name, value in headers
    ]
