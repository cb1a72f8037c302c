"""Downloads of small documents from configured URLs, bounded in time and size, without redirects.

urllib is used because it is imported in a fifth of aiohttp's time, and a token may come with a process's first request.
"""

import ssl
import urllib.request
from pathlib import Path
from time import monotonic
from typing import Any, Final

TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 16 * 1024


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes an HTTPError of a redirect: only the configured address is trusted."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def download(url: str, ca_file: Path | None = None, token_file: Path | None = None) -> bytes:
    """The document at a URL, with the bearer token of `token_file`; blocks for up to about ten seconds.

    Raises OSError, http.client.HTTPException, and ValueError for a document that is too long or too slow.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - settings.py allows https and http only
    if token_file is not None:
        request.add_header("Authorization", f"Bearer {token_file.read_text(encoding='ascii').strip()}")
    opener = urllib.request.build_opener(NoRedirects, urllib.request.HTTPSHandler(context=context))
    deadline = monotonic() + TIMEOUT_SECONDS
    received = b""
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        while chunk := response.read1(CHUNK_BYTES):
            received += chunk
            if len(received) > MAX_BYTES:
                raise ValueError(f"longer than {MAX_BYTES} bytes")
            if monotonic() > deadline:
                raise ValueError("too slow")
    return received
