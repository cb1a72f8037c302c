"""The fast path: reads of one user by id, and the probes, without FastAPI.

They are the first requests of a new pod and the most frequent ones of a busy pod. This module imports only the reader,
so a pod answers reads while FastAPI, SQLAlchemy and pydantic are still being imported, and a read does not pass through
their layers. The route in routes/users.py documents the read and calls `read_user`: there is one implementation.
"""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from user_service.bootstrap import Resources
from user_service.cache.base import Entry
from user_service.errors import FieldError, UserNotFound, ValidationFailed
from user_service.values.ids import parse_id
from user_service.web.health import LIVE, Health
from user_service.web.preconditions import IF_MATCH, IF_NONE_MATCH, is_unchanged
from user_service.web.request_checks import check_encoding, check_names, parse_query
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse

USERS: Final = "/api/v1/users/"
USER_ROUTE: Final = "/api/v1/users/{user_id}"
READS: Final = frozenset({"GET", "HEAD"})
LIVE_PATH: Final = "/api/health/live"
READY_PATH: Final = "/api/health/ready"


class FastPath:
    """Answers reads and probes; the API answers all other requests."""

    def __init__(self, resources: Resources, health: Health) -> None:
        self.resources = resources
        self.reader = resources.reader
        self.health = health
        self.serves_users = resources.settings.serve != "events"

    async def answer(self, method: str, path: str, query: bytes, context: RequestContext) -> RawResponse | None:
        """The response, or None for a request that the API must answer. Raises ServiceError."""
        if method not in READS:
            return None
        principal = context.principal
        if self.serves_users and principal is not None and path.startswith(USERS):
            id_text, headers = path[len(USERS) :], context.headers
            # Most reads hit this process's cache, which is keyed by the id's text too: nothing is parsed.
            entry = None if bypasses_cache(headers) else self.reader.get_local(id_text)
            user_id = parse_id(id_text) if entry is None else None
            if entry is None and user_id is None:
                return None
            context.route = USER_ROUTE
            principal.require("users:read")
            response = await self.read_user(user_id, query, headers) if user_id else render_user(entry, query, headers)
            context.rows = 1
            return response
        if path == LIVE_PATH:
            context.route = LIVE_PATH
            return LIVE
        if path == READY_PATH:
            context.route = READY_PATH
            return await self.health.ready()
        return None

    async def is_cached(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request is a read that a cache answers: it takes none of what is short in an overload."""
        if method not in READS or not path.startswith(USERS) or bypasses_cache(headers):
            return False
        return await self.reader.is_cached(path[len(USERS) :])

    async def read_user(self, user_id: UUID, query: bytes, headers: Mapping[bytes, bytes]) -> RawResponse:
        """`GET /users/{id}`. Raises UserNotFound, ValidationFailed, DatabaseUnavailable."""
        self.resources.require_database()
        return render_user(await self.reader.read(user_id, fresh=bypasses_cache(headers)), query, headers)


def render_user(entry: Entry | None, query: bytes, headers: Mapping[bytes, bytes]) -> RawResponse:
    """200 or 304 (`If-None-Match`). Raises UserNotFound, ValidationFailed, VersionMismatch, InvalidHeader."""
    deleted_too = bool(query) and includes_deleted(query)
    if entry is None or (entry.deleted and not deleted_too):
        raise UserNotFound
    if (IF_NONE_MATCH in headers or IF_MATCH in headers) and is_unchanged(headers, entry.version):
        return RawResponse(304, entry.validators, b"")
    return RawResponse(200, entry.headers, entry.body)


def bypasses_cache(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request has `Cache-Control: no-cache`."""
    directives = headers.get(b"cache-control")
    return directives is not None and b"no-cache" in directives.lower()


def includes_deleted(query: bytes) -> bool:
    """Whether the query is `include=deleted`. Raises BadRequest, and ValidationFailed for any other."""
    check_encoding(query)
    parameters = parse_query(query)
    check_names([name for name, _ in parameters], "include".__eq__)
    if parameters not in ([], [("include", "deleted")]):
        raise ValidationFailed(errors=[FieldError("?include", "literal_error", "must be `deleted`")])
    return bool(parameters)
