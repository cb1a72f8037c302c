"""Streamed responses that free what their content holds, however they end."""

from collections.abc import AsyncGenerator
from typing import Final

import anyio
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

CLOSE_SECONDS: Final = 2.0


class ClosingResponse(StreamingResponse):
    """Closes its content at its end, also when the client has gone or the server stops.

    Otherwise the content would keep its connection to PostgreSQL until Python collects it.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        *,
        first: bytes = b"",
        media_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`first`: what was taken from the content already."""
        joined = self.join(first, content)
        super().__init__(joined, 200, headers, media_type)
        self.generators = joined, content

    @staticmethod
    async def join(first: bytes, content: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        if first:
            yield first
        async for piece in content:
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The request may have been cancelled already, even before the response began.
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                for generator in self.generators:
                    await generator.aclose()
