"""Streamed responses that free what their content holds, however they end."""

from collections.abc import AsyncGenerator
from typing import Final

import anyio
from fastapi.responses import StreamingResponse
from starlette.types import Send

CLOSE_SECONDS: Final = 2.0


class ClosingResponse(StreamingResponse):
    """Closes its content at its end, also when the client has gone or the server stops.

    Otherwise the content would keep its connection to PostgreSQL until Python collects it.
    """

    def __init__(
        self, content: AsyncGenerator[bytes], *, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, 200, headers, media_type)
        self.content = content

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            # The request may have been cancelled already.
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self.content.aclose()
