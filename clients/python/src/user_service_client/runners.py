"""Performs steps with httpx2, blocking or with asyncio, and makes methods of functions that are written as steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx2

from user_service_client.errors import UserServiceError
from user_service_client.service import Service
from user_service_client.steps import Emit, Emits, ReadPiece, Reply, Request, Send, Sleep, Steps, Work

P = ParamSpec("P")
T = TypeVar("T")
WATCH_SECONDS = 0.5


class Resource:
    """A group of methods, with what they need."""

    http: Any

    def __init__(self, service: Service, http: Any) -> None:
        self.service = service
        self.http = http


class BlockingResource(Resource):
    http: httpx2.Client

    def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""
        values = self.iterate(steps)
        while True:
            try:
                next(values)
            except StopIteration as end:  # noqa: PERF203 - it ends the loop
                result: T = end.value
                return result

    def iterate(self, steps: Steps[T]) -> Generator[Any, None, T]:
        """What the steps emit; at the end their result."""
        stream: httpx2.Response | None = None
        pieces: Iterator[bytes] = iter(())
        outcome: Any = None
        failure: httpx2.RequestError | None = None
        try:
            while True:
                try:
                    step = steps.send(outcome) if failure is None else steps.throw(failure)
                except StopIteration as end:
                    result: T = end.value
                    return result
                outcome = failure = None
                try:
                    if isinstance(step, Emit):
                        yield step.value
                    elif isinstance(step, Sleep):
                        time.sleep(step.seconds)
                    elif isinstance(step, Work):
                        outcome = step.function()
                    elif isinstance(step, ReadPiece):
                        outcome = next(pieces, None)
                    else:
                        if stream is not None:
                            stream.close()
                        stream, outcome = self.send(step)
                        pieces = stream.iter_bytes() if not stream.is_closed else iter(())
                except httpx2.RequestError as error:
                    failure = error
        finally:
            steps.close()
            if stream is not None:
                stream.close()

    def send(self, step: Send) -> tuple[httpx2.Response, Reply]:
        with self.watching(step.request):
            request = self.service.build(self.http, step, self.service.credentials())
            response = self.http.send(request, stream=True)
            if not step.is_stream or not response.is_success:
                try:
                    response.read()
                finally:
                    response.close()
            return response, to_reply(response)

    @contextmanager
    def watching(self, request: Request) -> Iterator[None]:
        """Performs `watch` of the request in a thread, until the end of the block."""
        watch = request.watch
        if watch is None:
            yield
            return
        is_over = threading.Event()

        def repeat() -> None:
            while not is_over.wait(WATCH_SECONDS):
                with suppress(UserServiceError):
                    self.run(watch())

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class AsyncResource(Resource):
    http: httpx2.AsyncClient

    async def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""
        results: list[T] = []
        async with aclosing(self.iterate(steps, results)) as values:
            async for _ in values:
                pass
        return results[0]

    async def iterate(self, steps: Steps[T], results: list[T] | None = None) -> AsyncGenerator[Any, None]:
        """What the steps emit; their result is added to `results`."""
        stream: httpx2.Response | None = None
        pieces: AsyncIterator[bytes] | None = None
        outcome: Any = None
        failure: httpx2.RequestError | None = None
        try:
            while True:
                try:
                    step = steps.send(outcome) if failure is None else steps.throw(failure)
                except StopIteration as end:
                    if results is not None:
                        results.append(end.value)
                    return
                outcome = failure = None
                try:
                    if isinstance(step, Emit):
                        yield step.value
                    elif isinstance(step, Sleep):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, Work):
                        outcome = await asyncio.to_thread(step.function)
                    elif isinstance(step, ReadPiece):
                        outcome = await anext(pieces, None) if pieces is not None else None
                    else:
                        if stream is not None:
                            await stream.aclose()
                        stream, outcome = await self.send(step)
                        pieces = stream.aiter_bytes() if not stream.is_closed else None
                except httpx2.RequestError as error:
                    failure = error
        finally:
            steps.close()
            if stream is not None:
                await stream.aclose()

    async def send(self, step: Send) -> tuple[httpx2.Response, Reply]:
        watching = asyncio.create_task(self.repeat(step.request.watch)) if step.request.watch is not None else None
        try:
            request = self.service.build(self.http, step, await self.credentials())
            response = await self.http.send(request, stream=True)
            if not step.is_stream or not response.is_success:
                try:
                    await response.aread()
                finally:
                    await response.aclose()
            return response, to_reply(response)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])

    async def credentials(self) -> dict[str, str]:
        """A function that gives tokens may block, as for a request of its own: it is called in a thread."""
        if callable(self.service.token):
            return await asyncio.to_thread(self.service.credentials)
        return self.service.credentials()

    async def repeat(self, watch: Callable[[], Steps[None]]) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            with suppress(UserServiceError):
                await self.run(watch())


def to_reply(response: httpx2.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content if response.is_closed else b"")


class Method(Generic[P, T]):
    """A method that is written once, as steps, for both clients."""

    def __init__(self, function: Callable[Concatenate[Any, P], Generator[Any, Any, Any]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def bind(self, instance: Resource, perform: Callable[[Generator[Any, Any, Any]], Any]) -> Any:
        def method(*arguments: P.args, **options: P.kwargs) -> Any:
            return perform(self.function(instance, *arguments, **options))

        return update_wrapper(method, self.function)


class operation(Method[P, T]):  # noqa: N801 - a decorator
    """Makes a method that returns the result of its steps: it blocks in the one client and is awaited in the other."""

    def __init__(self, function: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        super().__init__(function)

    @overload
    def __get__(self, instance: BlockingResource, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: AsyncResource, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> operation[P, T]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.bind(instance, instance.run)


class iteration(Method[P, T]):  # noqa: N801 - a decorator
    """Makes a method that returns an iterator of what its steps emit."""

    def __init__(self, function: Callable[Concatenate[Any, P], Emits[T]]) -> None:
        super().__init__(function)

    @overload
    def __get__(self, instance: BlockingResource, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, instance: AsyncResource, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> iteration[P, T]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.bind(instance, instance.iterate)
