"""The blocking and the asynchronous client of clients/python, behind one face."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from support.settings import API_KEY
from user_service_client import AsyncClient, Client, Retry

# Faults are met many times in a test; each is tried again at once.
QUICK = Retry(deadline_seconds=60, first_pause_seconds=0.001, longest_pause_seconds=0.01)


class Blocking:
    """An object of the asynchronous client whose methods block."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.inner = inner
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return Blocking(found, self.loop)

        def method(*arguments: Any, **options: Any) -> Any:
            result = found(*arguments, **options)
            if inspect.isawaitable(result):
                return self.loop.run_until_complete(result)
            return self.iterate(result)

        return method

    def iterate(self, values: AsyncIterator[Any]) -> Iterator[Any]:
        async def take() -> list[Any]:
            return [value async for value in first(values)]

        while taken := self.loop.run_until_complete(take()):
            yield from taken


async def first(values: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The next value, if there is one."""
    with_end = object()
    value = await anext(values, with_end)
    if value is not with_end:
        yield value


@contextmanager
def open_client(kind: str, url: str, **options: Any) -> Iterator[Any]:
    """A client of a kind, `blocking` or `async`; its methods block."""
    options = {"api_key": API_KEY, "retry": QUICK, **options}
    if kind == "blocking":
        with Client(url, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        client = runner.run(AsyncClient(url, **options).__aenter__())
        try:
            yield Blocking(client, runner.get_loop())
        finally:
            runner.run(client.close())
