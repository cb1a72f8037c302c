"""What a start imports. scripts/check holds what may import what."""

import subprocess
import sys

import pytest

from support.settings import ENCRYPTION_KEY

HEAVY = {"fastapi", "starlette", "sqlalchemy", "pydantic", "alembic", "redis", "prometheus_client", "cloudevents"}


@pytest.mark.parametrize(
    "modules", ["user_service.app, user_service.bootstrap, user_service.web.fast_path", "user_service.cli.main"]
)
def test_a_start_leaves_out_what_a_first_read_does_not_need(modules: str) -> None:
    program = f"import sys, {modules}; print(*(name for name in {sorted(HEAVY)} if name in sys.modules))"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.split() == []


def test_the_api_is_loaded_without_what_only_a_list_needs() -> None:
    program = "import sys, user_service.app, user_service.web.api; print('sqlalchemy' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.split() == ["False"]


def test_a_serving_process_answers_a_read_without_them(database_url: str) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.settings import Settings
from user_service.errors import UserNotFound
from uuid import UUID
async def read():
    settings = Settings(database_url={database_url!r}, encryption_key={ENCRYPTION_KEY!r})
    resources = Resources(settings)
    application = Application(resources)
    await resources.open()
    try:
        await application.fast_path.read_user(UUID(int=7), b"", {{}})
    except UserNotFound:
        print("answered", *(name for name in {sorted(HEAVY)} if name in sys.modules))
    await resources.close()
asyncio.run(read())
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.split() == ["answered"]
