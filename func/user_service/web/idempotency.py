"""Changes of one user, each whole or not at all; once for an `Idempotency-Key`, whose response is stored with it."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from user_service.errors import ServiceError, Unavailable
from user_service.idempotency.requests import IdempotentRequest
from user_service.idempotency.stored_responses import Links, StoredResponse
from user_service.users.service import UserService
from user_service.users.single_statement import NotAtOnce
from user_service.users.unit_of_work import UserDatabase
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse

# Errors that are stored: the database has decided them, so they stay true for this request. The caller fixes other
# requests and retries.
STORED_ERRORS: Final = frozenset({404, 409, 412})
DROPPED_HEADERS: Final = frozenset({b"content-length"})
REPLAYED_HEADER: Final = (b"idempotency-replayed", b"true")

Result = TypeVar("Result")


class UserChanges:
    """Runs the change of a request. `key` is the request's Idempotency-Key, if it has one."""

    def __init__(self, database: UserDatabase, context: RequestContext, key: IdempotentRequest | None) -> None:
        self.database = database
        self.context = context
        self.key = key

    async def run(
        self, operate: Callable[[UserService], Awaitable[Result]], render: Callable[[Result], RawResponse]
    ) -> RawResponse:
        """The response that `render` makes of the operation's result, or the stored one. Raises ServiceError.

        One statement writes the change where that is possible, and the response for the key if that is new; the
        operation runs twice where it is not.
        """
        try:
            return await self.run_at_once(operate, render)
        except NotAtOnce:
            return await self.run_in_transaction(operate, render)

    async def run_at_once(
        self, operate: Callable[[UserService], Awaitable[Result]], render: Callable[[Result], RawResponse]
    ) -> RawResponse:
        """As `run`. Raises NotAtOnce too: nothing was changed."""
        async with self.database.single_statement(self.context.origin) as (users, repository):
            try:
                response = render(await operate(users))
            except ServiceError as error:
                if self.key is None or isinstance(error, Unavailable):
                    raise
                # The request may come again, after a change: the transaction finds the response of the first time.
                raise NotAtOnce from error
            if self.key is not None:
                # What is stored must be linked to each user in it. A statement links it to the change that it writes.
                if users.unlogged():
                    raise NotAtOnce
                repository.keyed = self.key.keyed_response(to_stored(response))
            self.context.rows = len(users.changed_versions)
            return response

    async def run_in_transaction(
        self, operate: Callable[[UserService], Awaitable[Result]], render: Callable[[Result], RawResponse]
    ) -> RawResponse:
        """As `run`, in a transaction with locks."""
        async with self.database.unit_of_work(self.context.origin) as users:
            session = users.repository.session
            if self.key is not None:
                stored = await self.key.before(session)
                if stored is not None:
                    return replay(stored)
                await users.savepoint()
            try:
                response = render(await operate(users))
            except ServiceError as error:
                if self.key is None or error.status not in STORED_ERRORS:
                    raise
                await users.rollback_to_savepoint()
                response = self.context.render_error(error)
            if self.key is not None:
                await self.key.after(session, to_stored(response), find_links(users, response))
            self.context.rows = len(users.changed_versions)
            return response


def find_links(users: UserService, response: RawResponse) -> Links:
    # A response without a body is about no user.
    return Links(users.origin.traceparent, users.unlogged if response.body else tuple)


def to_stored(response: RawResponse) -> StoredResponse:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in response.headers
        if name not in DROPPED_HEADERS
    ]
    return StoredResponse(response.status, headers, response.body)


def replay(stored: StoredResponse) -> RawResponse:
    """A stored response as it is sent again."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in stored.headers]
    headers.append(REPLAYED_HEADER)
    if stored.body:
        headers.append((b"content-length", b"%d" % len(stored.body)))
    return RawResponse(stored.status, headers, stored.body)
