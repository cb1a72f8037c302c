"""A streamed response closes what it streams, however it ends."""

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from user_service.web.streams import ClosingResponse

SCOPE = {"type": "http", "method": "GET", "asgi": {"version": "3.0", "spec_version": "2.3"}}
Message = MutableMapping[str, Any]


class Source:
    """A content that holds something from its first piece on."""

    def __init__(self) -> None:
        self.held = False

    async def pieces(self) -> AsyncGenerator[bytes]:
        self.held = True
        try:
            for piece in (b"a", b"b", b"c"):
                yield piece
        finally:
            self.held = False


async def stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def leave() -> Message:
    return {"type": "http.disconnect"}


async def begin() -> tuple[Source, ClosingResponse]:
    """A response whose first piece was taken before it starts."""
    source = Source()
    pieces = source.pieces()
    response = ClosingResponse(pieces, first=await anext(pieces), media_type="text/plain")
    assert source.held
    return source, response


async def test_the_whole_content_is_sent_and_closed() -> None:
    source, response = await begin()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await response(SCOPE, stay, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"abc"
    assert not source.held


async def test_a_client_that_has_gone_before_the_start_leaves_nothing_open() -> None:
    source, response = await begin()

    async def send(message: Message) -> None: ...

    await response(SCOPE, leave, send)
    assert not source.held


async def test_a_response_that_is_cancelled_at_its_start_leaves_nothing_open() -> None:
    source, response = await begin()

    async def send(message: Message) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(response(SCOPE, stay, send))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not source.held


async def test_a_client_that_goes_in_the_middle_leaves_nothing_open() -> None:
    source, response = await begin()
    left = asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body") == b"b":
            left.set()
            await asyncio.Event().wait()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    await response(SCOPE, receive, send)
    assert not source.held
