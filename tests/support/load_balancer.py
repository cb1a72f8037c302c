"""A TCP load balancer like kube-proxy: a new connection goes to an endpoint of now, an old one stays where it is."""

import asyncio
import itertools
from collections.abc import Iterator


class LoadBalancer:
    def __init__(self) -> None:
        self.endpoints: list[int] = []
        self.turns: Iterator[int] = itertools.count()
        self.connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listens on a port of 127.0.0.1, which it returns."""
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self.server.close()
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self.forward(reader, writer))
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            endpoint = self.endpoints[next(self.turns) % len(self.endpoints)]
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", endpoint)
        except OSError:
            writer.transport.abort()
            return
        there = asyncio.create_task(pipe(reader, upstream_writer))
        back = asyncio.create_task(pipe(upstream_reader, writer))
        try:
            await asyncio.gather(there, back)
        finally:
            there.cancel()
            back.cancel()
            writer.transport.abort()
            upstream_writer.transport.abort()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on until their end, and then the end; a reset is passed on as a reset."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
