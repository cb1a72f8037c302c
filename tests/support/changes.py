"""A reader of the feed that keeps a copy of the directory, and the directory to compare it with."""

from typing import Any

import httpx

from support.api import USERS

FEED = f"{USERS}/changes"


async def read_all(client: httpx.AsyncClient, after: str | None = None, **parameters: Any) -> list[dict[str, Any]]:
    """All changes after a cursor, to the end of the feed."""
    items, _ = await read_on(client, after, **parameters)
    return items


async def read_on(
    client: httpx.AsyncClient, after: str | None = None, **parameters: Any
) -> tuple[list[dict[str, Any]], str]:
    """All changes after a cursor, and the cursor of the end."""
    items: list[dict[str, Any]] = []
    while True:
        query = {"after": after} if after is not None else {}
        response = await client.get(FEED, params={"limit": 1000, **parameters, **query})
        assert response.status_code == 200, response.text
        page = response.json()
        items += page["items"]
        if page["next_cursor"] == after:
            return items, page["next_cursor"]
        after = page["next_cursor"]


class Copy:
    """The versions and states of users, from nothing but the feed."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[int, str]] = {}
        self.seen: set[str] = set()
        self.versions: dict[str, int] = {}

    def apply(self, items: list[dict[str, Any]]) -> None:
        """Takes a page. Fails for a change that came twice, or not in the order of its user's versions."""
        for item in items:
            assert item["id"] not in self.seen
            self.seen.add(item["id"])
            assert item["version"] == self.versions.get(item["user_id"], 0) + 1
            self.versions[item["user_id"]] = item["version"]
            if item["type"] == "purged":
                self.users.pop(item["user_id"], None)
            else:
                self.users[item["user_id"]] = (item["version"], item["status"])


async def directory(database: Any) -> dict[str, tuple[int, str]]:
    """What a copy of the directory holds when it is complete."""
    rows = await database.fetch("SELECT id, version, status FROM users")
    return {str(user_id): (version, status) for user_id, version, status in rows}
