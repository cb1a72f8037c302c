"""The way to PostgreSQL is bad: requests are answered all the same, by both pools."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import uuid4

import pytest

from support.api import USERS
from support.application import Client, running
from support.forwarder import forwarding
from support.process import command
from support.servers import PostgresServer
from support.settings import make_settings
from support.silent_host import full_host, silent_host
from support.waiting import eventually

FRESH = {"Cache-Control": "no-cache"}


def database_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


async def ask_at_once(client: Client, path: str, number: int) -> set[int]:
    """The statuses of so many reads, lists and creates at the same time."""
    responses = await asyncio.gather(
        *(client.get(path, headers=FRESH) for _ in range(number)),
        *(client.get(USERS) for _ in range(number)),
        *(client.post(USERS, json={"email": f"{uuid4().hex}@example.org"}) for _ in range(number)),
    )
    return {response.status_code for response in responses}


@pytest.mark.parametrize("unreachable", [silent_host, full_host])
async def test_a_silent_first_host_is_passed_over(
    unreachable: Callable[[], AbstractContextManager[str]], database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with unreachable() as host:
        name, _, port = host.rpartition(":")
        url = f"postgresql://postgres@/{database_name(database_url)}?host={name},{postgres.sockets}&port={port},5432"
        async with running(make_settings(url, tmp_path, cache="none")) as client:
            path = await client.make()
            statuses = await ask_at_once(client, path, 10)
        migrated = await asyncio.to_thread(command, tmp_path, "migrate", DATABASE_URL=url)

    assert statuses == {200, 201}
    assert migrated.returncode == 0, migrated.stderr


async def test_requests_share_the_open_connections_where_no_other_can_be_opened(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with forwarding(postgres.sockets) as forwarder:
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port}/{database_name(database_url)}"
        async with running(make_settings(url, tmp_path, cache="none")) as client:
            path = await client.make()
            filling = client.application.filling_pool
            assert filling is not None
            await filling
            forwarder.refuses_new = True
            statuses = await ask_at_once(client, path, 20)

    assert statuses == {200, 201}


async def test_some_connections_are_open_before_the_service_is_ready(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with forwarding(postgres.sockets) as forwarder:
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port}/{database_name(database_url)}"
        async with running(make_settings(url, tmp_path)) as client:
            opened = client.resources.pool.stats.opened

            async def can_write_at_once() -> bool:
                services = client.resources.services
                return services is not None and services.database.pool_stats[0].opened >= 2

            await eventually(can_write_at_once)

    assert opened == 2
