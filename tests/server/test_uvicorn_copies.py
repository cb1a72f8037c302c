"""server/protocol.py copies private code of uvicorn. These tests fail when the code that was copied has changed."""

import hashlib
import inspect
from collections.abc import Callable

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# The original, the method of server/protocol.py that copies or replaces it, and the digest of the original's source.
COPIES: dict[Callable[..., object], tuple[str, str]] = {
    HttpToolsProtocol.on_headers_complete: ("BoundedProtocol.begin_request", "1ea8589acfad92d8"),
    HttpToolsProtocol.on_response_complete: ("BoundedProtocol.on_response_complete", "64e254f28e389e76"),
    HttpToolsProtocol.connection_lost: ("BoundedProtocol.connection_lost", "c91a4c9bf2e29c55"),
    HttpToolsProtocol.send_400_response: ("BoundedProtocol.send_400_response", "ae5a4a3782b646fd"),
    RequestResponseCycle.__init__: ("BoundedProtocol.begin_request", "4d2f220910c33c12"),
    RequestResponseCycle.run_asgi: ("OneWriteCycle.run_application", "0f33f2449a444bc2"),
    RequestResponseCycle.send: ("OneWriteCycle.send, encode and finish", "abdd8601b326a8da"),
}


def digest(function: Callable[..., object]) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


@pytest.mark.parametrize("original", COPIES, ids=lambda original: original.__qualname__)
def test_the_original_of_a_copy_is_unchanged(original: Callable[..., object]) -> None:
    copy, expected = COPIES[original]

    assert digest(original) == expected, (
        f"uvicorn's {original.__qualname__} has changed, which {copy} in server/protocol.py copies. Compare the two "
        f"versions, bring the change over to the copy where it applies, run tests/server "
        f"and tests/system, then put the digest {digest(original)} here."
    )
