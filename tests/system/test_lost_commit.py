"""A commit that happened, and whose answer never arrived."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from support.application import running
from support.settings import make_settings

SOCKET = ".s.PGSQL.5432"


class Wire:
    """Stands between a service and PostgreSQL; while `cut` is set, it passes a commit on and keeps the answer.

    A commit is the execution of the statement that writes a change, whose parameters name the type of the change.
    """

    def __init__(self, server: Path) -> None:
        self.server = server
        self.cut = False
        self.commits = 0

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self.server)
        lost = asyncio.Event()
        back = asyncio.create_task(self.copy(from_server, writer, lost))
        while data := await reader.read(65536):
            if self.cut and b"updated" in data:
                lost.set()
            to_server.write(data)
        to_server.close()
        await back

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if lost.is_set():
                self.commits += 1
                break
            writer.write(data)
        writer.close()


@asynccontextmanager
async def wire_to(url: str, folder: Path) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server of a URL, and the URL that leads through it."""
    place = parse_qs(urlsplit(url).query)["host"][0]
    wire = Wire(Path(place) / SOCKET)
    server = await asyncio.start_unix_server(wire.join, folder / SOCKET)
    try:
        yield wire, f"postgresql://postgres@/{urlsplit(url).path[1:]}?host={folder}&port=5432"
    finally:
        server.close()


async def test_a_write_whose_commit_was_not_answered_leaves_no_old_value_in_the_cache(
    database_url: str, tmp_path: Path
) -> None:
    async with wire_to(database_url, tmp_path) as (wire, url), running(make_settings(url, tmp_path)) as client:
        path = await client.make(given_name="old")
        # The statement is prepared by this change, so that the next one sends its parameters alone.
        assert (await client.patch(path, json={"given_name": "older"})).status_code == 200
        await client.get(path)
        wire.cut = True
        lost = await client.patch(path, json={"given_name": "new"})
        wire.cut = False
        seen = await client.get(path)
        repeated = await client.patch(path, json={"given_name": "new"})

    assert wire.commits == 1
    assert lost.status_code == 503
    assert seen.json()["given_name"] == "new"
    assert (repeated.status_code, repeated.json()["version"]) == (200, 3)
