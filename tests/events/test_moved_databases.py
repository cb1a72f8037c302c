"""Events of a database that was moved to another cluster, or restored to an earlier moment."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from support.application import Client, running
from support.event_sink import Sink
from support.servers import PostgresServer
from support.settings import make_settings
from user_service.postgres.migrations import upgrade
from user_service.settings import Settings

pytestmark = pytest.mark.anyio
# Transactions, so that the numbers of one cluster are far ahead of a younger one's.
AGE = "DO $$ BEGIN FOR n IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


def move(postgres: PostgresServer, source: str, target: str) -> None:
    """pg_dump | psql"""
    programs = postgres.cluster.programs
    dump = subprocess.run([programs / "pg_dump", "-d", source], capture_output=True, check=True)
    subprocess.run(
        [programs / "psql", "-Xq", "--set=ON_ERROR_STOP=1", "-d", target],
        input=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def copy_folder(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--", source, target], check=True)


async def change(client: Client, path: str, locale: str) -> str:
    """Changes a user; returns the id of the change's event, as the audit trail has it."""
    headers = {"Content-Type": "application/merge-patch+json"}
    assert (await client.patch(path, json={"locale": locale}, headers=headers)).status_code == 200
    event_id: str = (await client.get(f"{path}/audit")).json()["items"][-1]["id"]
    return event_id


async def test_every_change_is_delivered_after_a_move_into_a_younger_cluster(
    postgres: PostgresServer, database_url: str, own_postgres: PostgresServer, tmp_path: Path, sink: Sink
) -> None:
    postgres.execute(AGE)
    async with running(make_settings(database_url, tmp_path, k_sink=sink.url)) as client:
        path = await client.make()
        await asyncio.to_thread(sink.wait_for, 1)
    async with running(make_settings(database_url, tmp_path)) as client:
        await change(client, path, "fr")
    target = own_postgres.create_database("moved")
    await asyncio.to_thread(move, postgres, database_url, target)

    async with running(make_settings(target, tmp_path, k_sink=sink.url)) as client:
        await asyncio.to_thread(sink.wait_for, 2)
        await change(client, path, "de")
        await client.make()
        taken = await asyncio.to_thread(sink.wait_for, 4)

    user_id = path.rpartition("/")[2]
    assert sink.versions()[user_id] == [1, 2, 3]
    assert len({received.id for received in taken}) == len(taken) == 4


async def test_no_event_id_comes_again_after_the_database_was_restored_to_an_earlier_moment(
    own_postgres: PostgresServer, tmp_path: Path, sink: Sink
) -> None:
    settings = make_settings(own_postgres.create_database("users"), tmp_path, k_sink=sink.url)
    await asyncio.to_thread(upgrade, settings.database_url or "")
    async with running(settings) as client:
        path = await client.make()
        await asyncio.to_thread(sink.wait_for, 1)
    folder, backup = own_postgres.cluster.folder, tmp_path / "backup"
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(copy_folder, folder, backup)
    lost = await change_once(own_postgres, settings, path, "fr", sink, count=2)
    await asyncio.to_thread(folder.rename, tmp_path / "lost")
    await asyncio.to_thread(copy_folder, backup, folder)

    kept = await change_once(own_postgres, settings, path, "de", sink, count=3)

    versions = [(received.version, received.id) for received in sink.taken]
    assert versions[1:] == [(2, lost), (2, kept)]
    assert lost != kept


async def change_once(
    server: PostgresServer, settings: Settings, path: str, locale: str, sink: Sink, *, count: int
) -> str:
    """Starts the server, changes a user, waits until `count` events were taken in all, and stops the server."""
    await asyncio.to_thread(server.start)
    async with running(settings) as client:
        event_id = await change(client, path, locale)
        await asyncio.to_thread(sink.wait_for, count)
    await asyncio.to_thread(server.stop)
    return event_id
