"""The program of docs/changes.md keeps a copy of the directory through kills, and starts anew after a restore."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg

from support.api import USERS
from support.documents import ROOT, read_blocks
from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import wait_until

PROGRAM = next(block.text for block in read_blocks(ROOT / "docs/changes.md") if block.language == "python")


@contextmanager
def consumer(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "consumer.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "URL": url, "KEY": API_KEY},
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def copied(folder: Path) -> dict[str, Any]:
    with suppress(sqlite3.OperationalError):
        copy = sqlite3.connect(f"file:{folder}/users.sqlite?mode=ro", uri=True)
        try:
            return {user_id: json.loads(text) for user_id, text in copy.execute("SELECT id, document FROM users")}
        finally:
            copy.close()
    return {}


def listed(service: ServiceProcess) -> dict[str, Any]:
    with service.client() as client:
        export = client.get(f"{USERS}/export").text
    return {user["id"]: user for user in map(json.loads, export.splitlines())}


def live(service: ServiceProcess, random: Random, steps: int) -> None:
    with service.client() as client:
        for _ in range(steps):
            body = {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(10)]}
            made = client.post(f"{USERS}/batch/create", json=body).json()["items"]
            paths = [f"{USERS}/{item['id']}" for item in made]
            client.patch(paths[0], json={"given_name": "Ada"})
            client.delete(random.choice(paths))
            client.delete(random.choice(paths), params={"purge": "true"})
            client.post(f"{random.choice(paths)}/erase")


def test_the_copy_is_the_directory_whenever_the_program_is_killed(database_url: str, tmp_path: Path) -> None:
    random = Random(4)
    assert len(PROGRAM.strip().splitlines()) <= 45
    with serving(tmp_path, DATABASE_URL=database_url) as service:
        service.wait_for("running on")
        live(service, random, 3)
        for _ in range(4):
            with consumer(tmp_path, service.url):
                live(service, random, 2)
                wait_until(lambda: len(copied(tmp_path)) > 10, "users in the copy")
        with consumer(tmp_path, service.url) as process:
            live(service, random, 2)
            wait_until(lambda: copied(tmp_path) == listed(service), "an equal copy")
            asyncio.run(forget_positions(database_url))
            live(service, random, 2)
            wait_until(lambda: copied(tmp_path) == listed(service), "an equal copy after a restart of the feed")
            assert process.poll() is None, (tmp_path / "consumer.log").read_text()
    assert copied(tmp_path)


async def forget_positions(url: str) -> None:
    """What a reader sees of a restore to the beginning: positions are assigned again, to other changes."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT FROM feed_state FOR UPDATE")
        await connection.execute("DELETE FROM feed")
        await connection.execute("UPDATE feed_state SET position = 0")
    await connection.close()
