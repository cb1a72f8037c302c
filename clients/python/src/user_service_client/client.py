"""The two clients: Client blocks, AsyncClient is for asyncio. Both have the same methods."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

import httpx2

from user_service_client.batches import BatchMethods
from user_service_client.runners import AsyncResource, BlockingResource
from user_service_client.service import VERSION, Service, Token
from user_service_client.steps import Retry
from user_service_client.users import UserMethods

if TYPE_CHECKING:
    from typing_extensions import Self

Transport = TypeVar("Transport")
USER_AGENT = f"user-service-client/{VERSION}"


class Batches(BatchMethods, BlockingResource):
    __doc__ = BatchMethods.__doc__


class AsyncBatches(BatchMethods, AsyncResource):
    __doc__ = BatchMethods.__doc__


class Users(UserMethods, BlockingResource):
    __doc__ = UserMethods.__doc__

    @cached_property
    def batch(self) -> Batches:
        return Batches(self.service, self.http)


class AsyncUsers(UserMethods, AsyncResource):
    __doc__ = UserMethods.__doc__

    @cached_property
    def batch(self) -> AsyncBatches:
        return AsyncBatches(self.service, self.http)


class BaseClient(ABC, Generic[Transport]):
    """What both clients have in common."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: Token | None = None,
        timeout_seconds: float = 30,
        retry: Retry | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.open(Service(url, api_key, token, timeout_seconds, retry or Retry()), transport)

    @classmethod
    def from_environment(cls) -> Self:
        """A client configured by USER_SERVICE_URL and USER_SERVICE_API_KEY. Raises KeyError."""
        return cls(os.environ["USER_SERVICE_URL"], api_key=os.environ["USER_SERVICE_API_KEY"])

    @abstractmethod
    def open(self, service: Service, transport: Transport | None) -> None:
        """Sets `http` and `users`; __init__ calls it."""


class Client(BaseClient[httpx2.BaseTransport]):
    """A client of the service at `url`, with an API key or a token; a function gives a token for each try.

    It keeps connections open, may be used by several threads, and is closed by `close` or at the end of a `with` block.
    Raises ValueError for what is no address or no credential.
    """

    def open(self, service: Service, transport: httpx2.BaseTransport | None) -> None:
        self.http = httpx2.Client(transport=transport, headers={"User-Agent": USER_AGENT})
        self.users = Users(service, self.http)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(BaseClient[httpx2.AsyncBaseTransport]):
    """As Client, for asyncio: methods are awaited, iterators are `async for`.

    A function that gives tokens is called in a thread, so it may block.
    """

    def open(self, service: Service, transport: httpx2.AsyncBaseTransport | None) -> None:
        self.http = httpx2.AsyncClient(transport=transport, headers={"User-Agent": USER_AGENT})
        self.users = AsyncUsers(service, self.http)

    async def close(self) -> None:
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
