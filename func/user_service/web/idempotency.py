"""`Idempotency-Key` around the endpoints of one user: the route keeps the answer before the transaction ends.

FastAPI closes a dependency of scope `function` after the route's handler has returned. So what runs around the handler
here still runs inside the unit of work that the dependency `Users` has opened.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from user_service.errors import ServiceError
from user_service.idempotency.requests import StoredResponse, TransactionHook
from user_service.idempotency.stored_responses import Links
from user_service.users.service import UserService
from user_service.web.problems import problem_response

# Errors that the database has decided: they stay true for this request. All others may be mended and sent again.
KEPT_ERRORS: Final = frozenset({404, 409, 412})
DROPPED_HEADERS: Final = frozenset({"content-length"})

replayed: Final = {"Idempotency-Replayed": "true"}


class Replay(Exception):
    """The request came before: this is its answer."""

    def __init__(self, kept: StoredResponse) -> None:
        super().__init__("replay")
        self.kept = kept


class IdempotentTransaction:
    """What a request with an Idempotency-Key does, in its transaction."""

    def __init__(self, users: UserService, once: TransactionHook) -> None:
        self.users = users
        self.once = once

    async def begin(self) -> None:
        """Raises Replay, and what refuses the key."""
        kept = await self.once.claim(self.users.repository.session)
        if kept is not None:
            raise Replay(kept)
        await self.users.savepoint()

    async def keep(self, response: Response) -> None:
        headers = [(name, value) for name, value in response.headers.items() if name not in DROPPED_HEADERS]
        kept = StoredResponse(response.status_code, headers, bytes(response.body))
        # An answer without a body says nothing of anybody.
        mentions = self.users.unlogged if kept.body else tuple
        await self.once.keep(self.users.repository.session, kept, Links(self.users.origin.traceparent, mentions))


async def answer_once(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """The endpoint's answer; kept with its effect, or given again, where the request has an Idempotency-Key."""
    try:
        response = await handle(request)
    except Replay as replay:
        kept = replay.kept
        return Response(kept.body, kept.status, {**dict(kept.headers), **replayed})
    except ServiceError as error:
        effect = effect_of(request)
        if effect is None or error.status not in KEPT_ERRORS:
            raise
        await effect.users.rollback_to_savepoint()
        response = problem_response(request, error)
        await effect.keep(response)
        return response
    if (effect := effect_of(request)) is not None:
        await effect.keep(response)
    return response


def effect_of(request: Request) -> IdempotentTransaction | None:
    effect: IdempotentTransaction | None = getattr(request.state, "effect", None)
    return effect
