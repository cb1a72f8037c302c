"""Lists and exports: on the read replica where there is one, and on the primary while the replica is unavailable.

After a failure no read goes to the replica for `PAUSE_SECONDS`, so that only one read waits for its timeout.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from user_service.errors import Unavailable
from user_service.observability.logging import log
from user_service.observability.metrics import Metrics
from user_service.postgres.database import BEGIN

if TYPE_CHECKING:
    from user_service.users.search import UserSearch

PAUSE_SECONDS: Final = 5.0

T = TypeVar("T")
# Given how to begin a transaction, or None for a statement of its own.
OpenSearch = Callable[[str | None], AbstractAsyncContextManager["UserSearch"]]


class ReplicaReads:
    """Runs reads that may lag behind the primary. `replica` is None where there is none."""

    def __init__(
        self,
        *,
        primary: OpenSearch,
        replica: OpenSearch | None,
        metrics: Metrics,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self.primary = primary
        self.replica = replica
        self.metrics = metrics
        self.pause_seconds = pause_seconds
        self.failed_at = -inf

    async def run(self, read: Callable[["UserSearch"], Awaitable[T]]) -> T:
        """What `read` returns. Raises Unavailable when the primary is unavailable too."""
        if self.replica is not None and self.is_due():
            try:
                async with self.replica(None) as search:
                    result = await read(search)
            except Unavailable as error:
                self.note_failure(error)
            else:
                self.note_success()
                return result
        async with self.primary(None) as search:
            return await read(search)

    async def stream(self, read: Callable[["UserSearch"], AsyncGenerator[T]]) -> AsyncGenerator[T]:
        """What `read` yields, from one server. Raises Unavailable; after the first item, for the replica too."""
        has_begun = False
        if self.replica is not None and self.is_due():
            try:
                async with self.replica(BEGIN) as search, aclosing(read(search)) as items:
                    async for item in items:
                        has_begun = True
                        yield item
            except Unavailable as error:
                self.note_failure(error)
                if has_begun:
                    raise
            else:
                self.note_success()
                return
        async with self.primary(BEGIN) as search, aclosing(read(search)) as items:
            async for item in items:
                yield item

    def is_due(self) -> bool:
        """Whether the read goes to the replica. Counts the reads that go to the primary during the pause."""
        if monotonic() >= self.failed_at + self.pause_seconds:
            return True
        self.metrics.replica_fallbacks.add()
        return False

    def note_failure(self, error: Unavailable) -> None:
        self.metrics.replica_fallbacks.add()
        if self.failed_at == -inf:
            log.warning("the read replica is unavailable; lists read from the primary", extra={"reason": error.detail})
        self.failed_at = monotonic()

    def note_success(self) -> None:
        if self.failed_at != -inf:
            log.info("the read replica is in use again")
        self.failed_at = -inf
