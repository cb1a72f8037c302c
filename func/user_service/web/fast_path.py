"""The read lane: one user by id, and the probes, answered without FastAPI.

They are what a fresh pod is asked first and a busy one most. So they import nothing but the reader behind them: a pod
answers reads while FastAPI, SQLAlchemy and pydantic are still being imported, and a read never pays for their layers.
The route in web/users.py documents the read and calls `read_user`, so that there is one implementation.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

from user_service.bootstrap import Resources
from user_service.cache.base import Entry
from user_service.errors import FieldError, UserNotFound, ValidationFailed
from user_service.values.ids import parse_id
from user_service.web.health import LIVE, Health
from user_service.web.request_checks import check_encoding, check_names
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse

USERS: Final = "/api/v1/users/"
USER_ROUTE: Final = "/api/v1/users/{user_id}"
READS: Final = frozenset({"GET", "HEAD"})
LIVE_PATH: Final = "/api/health/live"
READY_PATH: Final = "/api/health/ready"


class FastPath:
    """Answers what it knows, and leaves everything else to the API."""

    def __init__(self, resources: Resources, health: Health) -> None:
        self.resources = resources
        self.reader = resources.reader
        self.health = health
        self.serves_users = resources.settings.serve != "events"

    async def answer(self, method: str, path: str, query: bytes, context: RequestContext) -> RawResponse | None:
        """The answer, or None for a request that is not the lane's. Raises ServiceError."""
        if method not in READS:
            return None
        principal = context.principal
        if self.serves_users and principal is not None and path.startswith(USERS):
            written, headers = path[len(USERS) :], context.headers
            # Most reads are of a user at hand, whose id need not even be parsed.
            entry = None if asks_fresh(headers) else self.reader.get_local(written)
            user_id = parse_id(written) if entry is None else None
            if entry is None and user_id is None:
                return None
            context.route = USER_ROUTE
            principal.require("users:read")
            answer = await self.read_user(user_id, query, headers) if user_id else show(entry, query, headers)
            context.rows = 1
            return answer
        if path == LIVE_PATH:
            context.route = LIVE_PATH
            return LIVE
        if path == READY_PATH:
            context.route = READY_PATH
            return await self.health.ready()
        return None

    async def read_user(self, user_id: UUID, query: bytes, headers: Mapping[bytes, bytes]) -> RawResponse:
        """`GET /users/{id}`. Raises UserNotFound, ValidationFailed, DatabaseUnavailable."""
        self.resources.require_database()
        return show(await self.reader.read(user_id, fresh=asks_fresh(headers)), query, headers)


def show(entry: Entry | None, query: bytes, headers: Mapping[bytes, bytes]) -> RawResponse:
    """A user as the request asks for it. Raises UserNotFound, ValidationFailed."""
    include_deleted = bool(query) and asks_for_deleted(query)
    if entry is None or (entry.deleted and not include_deleted):
        raise UserNotFound
    condition = headers.get(b"if-none-match")
    if condition is not None and matches(condition, entry.version):
        return RawResponse(304, entry.validators, b"")
    return RawResponse(200, entry.headers, entry.body)


def asks_fresh(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a read is to pass by the cache."""
    directives = headers.get(b"cache-control")
    return directives is not None and b"no-cache" in directives.lower()


def asks_for_deleted(query: bytes) -> bool:
    """Whether the query is `include=deleted`. Raises BadRequest, and ValidationFailed for any other."""
    check_encoding(query)
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    check_names([name for name, _ in parameters], "include".__eq__)
    if parameters not in ([], [("include", "deleted")]):
        raise ValidationFailed(errors=[FieldError("?include", "literal_error", "must be `deleted`")])
    return bool(parameters)


def matches(condition: bytes, version: int) -> bool:
    """Whether an If-None-Match names a version's entity tag; weak comparison (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix(b"W/") for tag in condition.split(b",")]
    return b'"%d"' % version in tags or tags == [b"*"]
