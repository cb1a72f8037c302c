"""Pages of users as JSON: that of users in this process's cache is taken from there.

A page whose users were all in the cache is read without their content at first: ids and versions. Where the cache has
each of them in that version, its JSON is the page. Otherwise the page is read again with all columns, and nothing of
the first reading is used: what a page shows is always what one statement saw.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from user_service.cache.base import Cache
from user_service.encryption.cipher import Cipher
from user_service.postgres.session import Row
from user_service.users.encrypted_columns import ID_PLACE, VERSION_PLACE, decode_row
from user_service.users.search_query import SearchPage, SearchQuery

# Of so many queries it is known that the cache had all users of their pages.
MAX_QUERIES: Final = 1000


class UserPages:
    """Reads pages. `read` gives the rows of a query; of id and version alone, first, with `brief`."""

    def __init__(self, cache: Cache, cipher: Cipher, read: Callable[..., Awaitable[SearchPage[Row]]]) -> None:
        self.cache = cache
        self.cipher = cipher
        self.read_rows = read
        # By hash, so that no e-mail address or name stays here. An error costs one reading.
        self.cached: dict[int, None] = {}

    async def read(self, query: SearchQuery) -> SearchPage[bytes]:
        """The page of a query. Raises DatabaseUnavailable, Contended, DecryptionError."""
        key = hash(query)
        if key in self.cached and not query.counted:
            brief = await self.read_rows(query, brief=True)
            bodies = self.cache.get_bodies((row[0], row[1]) for row in brief.users)
            users = [body for body in bodies if body is not None]
            if len(users) == len(bodies):
                return SearchPage(users, brief.next)
        page = await self.read_rows(query)
        bodies = self.cache.get_bodies((row[ID_PLACE], row[VERSION_PLACE]) for row in page.users)
        self.note(key, is_cached=None not in bodies)
        users = [
            decode_row(row, self.cipher).to_json() if body is None else body
            for row, body in zip(page.users, bodies, strict=True)
        ]
        return SearchPage(users, page.next, page.total)

    def note(self, key: int, *, is_cached: bool) -> None:
        if not is_cached:
            self.cached.pop(key, None)
            return
        self.cached[key] = None
        if len(self.cached) > MAX_QUERIES:
            del self.cached[next(iter(self.cached))]
