"""The identity that a SinkBinding gives the service, for a broker that authenticates its senders."""

import asyncio
from pathlib import Path

from support.application import running
from support.event_sink import Sink
from support.settings import make_settings


async def test_the_token_of_a_sink_binding_is_sent_as_it_is_now(database_url: str, tmp_path: Path, sink: Sink) -> None:
    token = tmp_path / "token"
    settings = make_settings(database_url, tmp_path, k_sink=sink.url, k_sink_token_file=token)
    async with running(settings) as client:
        await client.make()
        await asyncio.to_thread(sink.wait_for, 1)
        for number, text in enumerate(("first", "second\n"), start=2):
            token.write_text(text)
            await client.make()
            await asyncio.to_thread(sink.wait_for, number)

    assert [received.headers.get("authorization") for received in sink.taken] == [
        None,
        "Bearer first",
        "Bearer second",
    ]


async def test_the_token_is_for_no_other_sink(database_url: str, tmp_path: Path, sink: Sink) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    settings = make_settings(database_url, tmp_path, event_sink_url=sink.url, k_sink_token_file=token)
    async with running(settings) as client:
        await client.make()
        (received,) = await asyncio.to_thread(sink.wait_for, 1)

    assert "authorization" not in received.headers
