"""Probes. `live`: the event loop answers. `ready`: PostgreSQL answers and the API is loaded or still loading.

The state of PostgreSQL is checked at most once a second. The service becomes not ready after three failed checks in
a row, and ready after one successful check.
"""

import asyncio
from time import monotonic
from typing import Final, NamedTuple

from user_service.bootstrap import Resources
from user_service.errors import ServiceError
from user_service.observability.logging import log
from user_service.web.responses import RawResponse, json_response

CHECK_SECONDS: Final = 1.0
CHECK_TIMEOUT_SECONDS: Final = 1.0
FAILURES_TO_GIVE_UP: Final = 3

LIVE: Final = json_response({"status": "ok"})


class HealthReport(NamedTuple):
    """`status` is `ok`, `degraded` (without Redis), `unavailable` or `stopping`; `checks`: the state of each part."""

    status: str
    checks: dict[str, str]

    @property
    def is_ready(self) -> bool:
        return self.status in {"ok", "degraded"}


class Health:
    """The state behind the probes. `check_timeout_seconds` bounds a check of PostgreSQL."""

    def __init__(self, resources: Resources, *, check_timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> None:
        self.resources = resources
        self.check_timeout_seconds = check_timeout_seconds
        self.stopping = False
        # The API's modules can't be imported: the fast path is all that can be served.
        self.broken = False
        self.failures = FAILURES_TO_GIVE_UP
        self.redis_answers = True
        self.checked_at = -CHECK_SECONDS
        self.checking: asyncio.Task[None] | None = None

    async def ready(self) -> RawResponse:
        """The readiness probe: 200 or 503 with the report as JSON."""
        report = await self.check()
        response = json_response(report._asdict(), status=200 if report.is_ready else 503)
        if report.is_ready:
            return response
        return response._replace(headers=[*response.headers, (b"retry-after", b"1")])

    async def check(self) -> HealthReport:
        """The report as of at most a second ago; waits for a check of PostgreSQL only while the last one has failed."""
        self.refresh()
        if self.checking is not None and self.failures:
            await asyncio.shield(self.checking)
        return self.report()

    def refresh(self) -> None:
        """Begins a check when the last one is older than a second."""
        if self.checking is None and monotonic() - self.checked_at >= CHECK_SECONDS:
            self.checking = asyncio.create_task(self.run_check())

    def report(self) -> HealthReport:
        """The report as of the last check."""
        database = self.resources.verified and self.failures < FAILURES_TO_GIVE_UP
        checks = {"database": "ok" if database else "unavailable"}
        if self.resources.settings.redis_url is not None:
            checks["redis"] = "ok" if self.redis_answers else "unavailable"
        if self.broken:
            checks["api"] = "broken"
        if self.stopping:
            return HealthReport("stopping", checks)
        if self.broken or not database:
            return HealthReport("unavailable", checks)
        return HealthReport("ok" if self.redis_answers else "degraded", checks)

    async def run_check(self) -> None:
        try:
            self.failures = 0 if await self.database_answers() else min(self.failures + 1, FAILURES_TO_GIVE_UP)
            cache = self.resources.cache
            self.redis_answers = cache.tier != "redis" or bool((await cache.statistics())["available"])
        finally:
            self.checked_at = monotonic()
            self.checking = None

    async def database_answers(self) -> bool:
        try:
            async with asyncio.timeout(self.check_timeout_seconds):
                await self.resources.pool.ping()
        except (ServiceError, TimeoutError):
            return False
        except Exception:
            log.exception("the database answers with an error")
            return False
        return True
