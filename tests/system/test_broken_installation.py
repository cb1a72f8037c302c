"""Modules that can't be imported: a process that could only read must not pass for a whole one."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.process import serving
from support.settings import API_KEY, ENCRYPTION_KEY
from support.waiting import PATIENCE_SECONDS


@pytest.fixture
def without_fastapi(tmp_path: Path) -> str:
    """A PYTHONPATH on which FastAPI is broken."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "fastapi.py").write_text('raise ImportError("half of it is missing")\n')
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH"), *sys.path])])


def test_the_server_ends_and_says_why(database_url: str, tmp_path: Path, without_fastapi: str) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, PYTHONPATH=without_fastapi) as service:
        status = service.process.wait(PATIENCE_SECONDS)
        critical = [line for line in service.read_log().splitlines() if '"level":"critical"' in line]

    assert status == 1
    assert len(critical) == 1
    assert "the API can't be loaded: the installation is broken" in critical[0]
    assert "broken/fastapi.py:1" in critical[0]


async def test_an_entry_point_without_a_process_of_its_own_is_not_ready(
    database_url: str, tmp_path: Path, without_fastapi: str
) -> None:
    program = f"""
import asyncio
from pathlib import Path
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.settings import Settings
async def look():
    settings = Settings(
        database_url={database_url!r}, encryption_key={ENCRYPTION_KEY!r}, internal_api_key=({API_KEY!r},)
    )
    application = Application(Resources(settings))
    await application.start()
    await application.api.get_if_started()
    answer = await application.health.ready()
    print(answer.status, answer.body.decode())
    await application.stop()
asyncio.run(look())
"""

    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": without_fastapi},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )

    assert result.stdout.startswith('503 {"status":"unavailable"')
    assert '"api":"broken"' in result.stdout
