"""Time limits of waits that are many and short: those of the same duration share one timer of the event loop.

For processes in which one event loop runs at a time.
"""

from asyncio import AbstractEventLoop, CancelledError, Task, TimerHandle, current_task, get_running_loop
from types import TracebackType
from typing import Any


class TimeLimit:
    """As `asyncio.timeout`: what the task awaits inside is cancelled after `seconds`, and TimeoutError is raised."""

    __slots__ = ("cancelling", "has_expired", "queue", "task", "when")

    def __init__(self, seconds: float) -> None:
        self.queue = find_queue(seconds)
        self.has_expired = False
        self.when = 0.0

    def lift(self) -> None:
        """Lets what is awaited take any time."""
        self.queue.limits.pop(self, None)

    def expire(self) -> None:
        self.has_expired = True
        self.task.cancel()

    def __enter__(self) -> "TimeLimit":
        task: Task[Any] | None = current_task()
        assert task is not None
        self.task, self.cancelling = task, task.cancelling()
        self.queue.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.queue.limits.pop(self, None)
        # Where the task was cancelled by others too, that goes on.
        if self.has_expired and self.task.uncancel() <= self.cancelling and kind is CancelledError:
            raise TimeoutError from error


class Queue:
    """The limits of one duration, in the order in which they expire."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.limits: dict[TimeLimit, None] = {}
        self.loop: AbstractEventLoop | None = None
        self.timer: TimerHandle | None = None

    def add(self, limit: TimeLimit) -> None:
        loop = get_running_loop()
        if loop is not self.loop:
            self.loop, self.timer, self.limits = loop, None, {}
        limit.when = loop.time() + self.seconds
        self.limits[limit] = None
        if self.timer is None:
            self.timer = loop.call_at(limit.when, self.expire, loop)

    def expire(self, loop: AbstractEventLoop) -> None:
        """Ends what is due. The timer goes on with the oldest limit that is not."""
        self.timer = None
        now = loop.time()
        for limit in list(self.limits):
            if limit.when > now:
                self.timer = loop.call_at(limit.when, self.expire, loop)
                return
            del self.limits[limit]
            limit.expire()


queues: dict[float, Queue] = {}


def find_queue(seconds: float) -> Queue:
    queue = queues.get(seconds)
    if queue is None:
        queue = queues[seconds] = Queue(seconds)
    return queue
