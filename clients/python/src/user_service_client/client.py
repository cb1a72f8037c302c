"""The two clients: Client blocks, AsyncClient is for asyncio. Both have the same methods."""

from __future__ import annotations

import os
from dataclasses import replace
from types import TracebackType

import httpx2

from user_service_client.batches import BatchMethods
from user_service_client.runners import AsyncResource, BlockingResource
from user_service_client.service import VERSION, Service, Token
from user_service_client.steps import Retry
from user_service_client.users import UserMethods

USER_AGENT = f"user-service-client/{VERSION}"


class Batches(BatchMethods, BlockingResource):
    __doc__ = BatchMethods.__doc__


class AsyncBatches(BatchMethods, AsyncResource):
    __doc__ = BatchMethods.__doc__


class Users(UserMethods, BlockingResource):
    __doc__ = UserMethods.__doc__

    def __init__(self, service: Service, http: httpx2.Client) -> None:
        super().__init__(service, http)
        self.batch = Batches(service, http)

    def because(self, reason: str) -> Users:
        """The same methods, whose changes and exports have this reason in the audit, such as `ticket 4711`."""
        return Users(replace(self.service, reason=reason), self.http)


class AsyncUsers(UserMethods, AsyncResource):
    __doc__ = UserMethods.__doc__

    def __init__(self, service: Service, http: httpx2.AsyncClient) -> None:
        super().__init__(service, http)
        self.batch = AsyncBatches(service, http)

    def because(self, reason: str) -> AsyncUsers:
        """The same methods, whose changes and exports have this reason in the audit, such as `ticket 4711`."""
        return AsyncUsers(replace(self.service, reason=reason), self.http)


class Client:
    """A client of the service at `url`, with an API key or a token; a function gives a token for each try.

    It keeps connections open, may be used by several threads, and is closed by `close` or at the end of a `with` block.
    Raises ValueError for what is no address or no credential.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: Token | None = None,
        timeout_seconds: float = 30,
        retry: Retry | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        service = Service(url, api_key, token, timeout_seconds, retry or Retry())
        self.http = httpx2.Client(transport=transport, headers={"User-Agent": USER_AGENT})
        self.users = Users(service, self.http)

    @classmethod
    def from_environment(cls) -> Client:
        """Of USER_SERVICE_URL and USER_SERVICE_API_KEY."""
        return cls(os.environ["USER_SERVICE_URL"], api_key=os.environ["USER_SERVICE_API_KEY"])

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """As Client, for asyncio: methods are awaited, iterators are `async for`.

    A function that gives tokens is called in a thread, so it may block.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: Token | None = None,
        timeout_seconds: float = 30,
        retry: Retry | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        service = Service(url, api_key, token, timeout_seconds, retry or Retry())
        self.http = httpx2.AsyncClient(transport=transport, headers={"User-Agent": USER_AGENT})
        self.users = AsyncUsers(service, self.http)

    @classmethod
    def from_environment(cls) -> AsyncClient:
        """Of USER_SERVICE_URL and USER_SERVICE_API_KEY."""
        return cls(os.environ["USER_SERVICE_URL"], api_key=os.environ["USER_SERVICE_API_KEY"])

    async def close(self) -> None:
        await self.http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
