"""`Idempotency-Key` on the endpoints of one user: the response is stored before the transaction ends.

FastAPI closes a dependency of scope `function` after the route's handler has returned. So code that runs around the
handler here still runs inside the unit of work that the dependency `Users` has opened.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from user_service.errors import ServiceError
from user_service.idempotency.requests import TransactionHook
from user_service.idempotency.stored_responses import Links, StoredResponse
from user_service.users.service import UserService
from user_service.web.problems import problem_response

# Errors that are stored: the database has decided them, so they stay true for this request. The caller fixes other
# requests and retries.
STORED_ERRORS: Final = frozenset({404, 409, 412})
DROPPED_HEADERS: Final = frozenset({"content-length"})

REPLAYED_HEADER: Final = {"Idempotency-Replayed": "true"}


class Replay(Exception):
    """The request came before; `stored` is its response."""

    def __init__(self, stored: StoredResponse) -> None:
        super().__init__("replay")
        self.stored = stored


class IdempotentTransaction:
    """The unit of work of a request with an Idempotency-Key."""

    def __init__(self, users: UserService, hook: TransactionHook) -> None:
        self.users = users
        self.hook = hook

    async def begin(self) -> None:
        """Raises Replay, and what refuses the key."""
        stored = await self.hook.before(self.users.repository.session)
        if stored is not None:
            raise Replay(stored)
        await self.users.savepoint()

    async def store(self, response: Response) -> None:
        headers = [(name, value) for name, value in response.headers.items() if name not in DROPPED_HEADERS]
        stored = StoredResponse(response.status_code, headers, bytes(response.body))
        # A response without a body is about no user.
        mentions = self.users.unlogged if stored.body else tuple
        await self.hook.after(self.users.repository.session, stored, Links(self.users.origin.traceparent, mentions))


async def respond_once(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """The endpoint's response. With an Idempotency-Key, it is stored in the same transaction, or sent again."""
    try:
        response = await handle(request)
    except Replay as replay:
        stored = replay.stored
        return Response(stored.body, stored.status, {**dict(stored.headers), **REPLAYED_HEADER})
    except ServiceError as error:
        transaction = find_transaction(request)
        if transaction is None or error.status not in STORED_ERRORS:
            raise
        await transaction.users.rollback_to_savepoint()
        response = problem_response(request, error)
        await transaction.store(response)
        return response
    if (transaction := find_transaction(request)) is not None:
        await transaction.store(response)
    return response


def find_transaction(request: Request) -> IdempotentTransaction | None:
    transaction: IdempotentTransaction | None = getattr(request.state, "idempotent_transaction", None)
    return transaction
