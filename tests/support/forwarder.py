"""A TCP address in front of a PostgreSQL's socket, with or without TLS."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

SSL_REQUEST = struct.pack("!II", 8, 80877103)


class Forwarder:
    """Forwards connections to a socket. `refuses_new` closes new ones at once; open ones go on.

    `drop_open` makes the open ones silent, as a firewall that has forgotten them; new ones are forwarded.
    """

    def __init__(self, target: Path, context: ssl.SSLContext | None) -> None:
        self.target = target
        self.context = context
        self.refuses_new = False
        self.generation = 0
        self.has_refused = asyncio.Event()
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def drop_open(self) -> None:
        self.generation += 1

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self.refuses_new:
                self.has_refused.set()
            else:
                await self.forward(reader, writer)
        writer.transport.abort()
        self.tasks.discard(task)

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.context is not None:
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self.context)
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self.target))
        try:
            there = asyncio.create_task(self.copy(reader, inner_writer))
            back = asyncio.create_task(self.copy(inner_reader, writer))
            _, pending = await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.wait([there, back])
        finally:
            inner_writer.transport.abort()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generation = self.generation
        with suppress(OSError):
            while data := await reader.read(65536):
                if generation == self.generation:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def forwarding(sockets: Path, context: ssl.SSLContext | None = None) -> AsyncIterator[Forwarder]:
    """A forwarder on a free port to the PostgreSQL whose sockets are in this folder."""
    forwarder = Forwarder(sockets / ".s.PGSQL.5432", context)
    server = await asyncio.start_server(forwarder.accept, "127.0.0.1", 0)
    forwarder.port = server.sockets[0].getsockname()[1]
    try:
        yield forwarder
    finally:
        server.close()
        for task in list(forwarder.tasks):
            task.cancel()
        await asyncio.gather(*forwarder.tasks, return_exceptions=True)
