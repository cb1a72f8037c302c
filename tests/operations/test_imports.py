"""What imports what. A start is fast because of what it leaves out; the layers hold because of what they can't see."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import user_service
from running import ENCRYPTION_KEY

ROOT = Path(user_service.__file__).parent
HEAVY = {"fastapi", "starlette", "sqlalchemy", "pydantic", "alembic", "redis", "prometheus_client", "cloudevents"}
# What each part may import of the project, besides itself and what is at the top.
LAYERS = {
    "users": {"users", "migrations"},
    "events": {"events", "users"},
    "web": {"web", "users", "events"},
    "migrations": {"users", "migrations"},
}
WEB_FRAMEWORKS = {"fastapi", "starlette", "cloudevents", "redis", "uvicorn", "mangum"}


@pytest.mark.parametrize(
    "modules", ["user_service.app, user_service.bootstrap, user_service.web.fast_path", "user_service.cli.main"]
)
def test_a_start_leaves_out_what_a_first_read_does_not_need(modules: str) -> None:
    program = f"import sys, {modules}; print(*(name for name in {sorted(HEAVY)} if name in sys.modules))"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.split() == []


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


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "user_service":
                yield from (f"user_service.{alias.name}" for alias in node.names)


def modules_of(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}

    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(layer)
        for name in imports_of(path)
        if name.startswith("user_service.") and name.split(".")[1] in folders - LAYERS[layer]
    ]

    assert wrong == []


def test_the_users_know_no_web_framework_and_no_redis() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules_of("users")
        for name in imports_of(path)
        if name.split(".")[0] in WEB_FRAMEWORKS or name == "user_service.cache.redis"
    ]

    assert wrong == []
