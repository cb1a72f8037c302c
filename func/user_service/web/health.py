"""Probes. `live`: the event loop answers. `ready`: PostgreSQL answers, and the API could be loaded or still may be.

A look at PostgreSQL is at most a second old.

Readiness is slow to give up and quick to come back: three looks in a row must fail, one must succeed.
"""

import asyncio
from time import monotonic
from typing import Final

from user_service.bootstrap import Resources
from user_service.errors import ServiceError
from user_service.observability.logging import log
from user_service.web.responses import RawResponse, json_answer

LOOK_SECONDS: Final = 1.0
LOOK_TIMEOUT_SECONDS: Final = 1.0
FAILURES_TO_GIVE_UP: Final = 3

LIVE: Final = json_answer({"status": "ok"})


class Health:
    """The state behind the probes."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.stopping = False
        # Nothing but the lane can be served: the API's modules can't be imported.
        self.broken = False
        self.failures = FAILURES_TO_GIVE_UP
        self.redis_answers = True
        self.looked_at = -LOOK_SECONDS
        self.look: asyncio.Task[None] | None = None

    async def ready(self) -> RawResponse:
        """200 `ok` or `degraded` (without Redis), or 503 with what is missing."""
        self.look_again()
        if self.look is not None and self.failures:
            await asyncio.shield(self.look)
        return self.answer()

    def look_again(self) -> None:
        """Begins a look when the last one is old."""
        if self.look is None and monotonic() - self.looked_at >= LOOK_SECONDS:
            self.look = asyncio.create_task(self.take_look())

    def answer(self) -> RawResponse:
        database = self.resources.verified and self.failures < FAILURES_TO_GIVE_UP
        checks = {"database": "ok" if database else "unavailable"}
        if self.resources.settings.redis_url is not None:
            checks["redis"] = "ok" if self.redis_answers else "unavailable"
        if self.broken:
            checks["api"] = "broken"
        if self.stopping or self.broken or not database:
            status = "stopping" if self.stopping else "unavailable"
            answer = json_answer({"status": status, "checks": checks}, status=503)
            return answer._replace(headers=[*answer.headers, (b"retry-after", b"1")])
        return json_answer({"status": "ok" if self.redis_answers else "degraded", "checks": checks})

    async def take_look(self) -> None:
        try:
            self.failures = 0 if await self.database_answers() else min(self.failures + 1, FAILURES_TO_GIVE_UP)
            cache = self.resources.cache
            self.redis_answers = cache.tier != "redis" or bool((await cache.statistics())["available"])
        finally:
            self.looked_at = monotonic()
            self.look = None

    async def database_answers(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                await self.resources.pool.fetch("SELECT 1")
        except (ServiceError, TimeoutError):
            return False
        except Exception:
            log.exception("the database answers with an error")
            return False
        return True
