"""The ASGI lifespan, as a server drives it."""

import asyncio
from pathlib import Path
from typing import Any

from support.settings import make_settings
from user_service.app import Application
from user_service.bootstrap import Resources


async def test_a_lifespan_starts_and_stops_the_application(database_url: str, tmp_path: Path) -> None:
    application = Application(Resources(make_settings(database_url, tmp_path)))
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, received.get, sent.put))

    await received.put({"type": "lifespan.startup"})
    started = await sent.get()
    await received.put({"type": "lifespan.shutdown"})
    stopped = await sent.get()
    await life

    assert [started["type"], stopped["type"]] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
