"""What a COPY writes is what an INSERT of the same users writes."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.application import running
from support.settings import make_settings
from user_service.users.bulk_insert import COPY_THRESHOLD
from user_service.users.change_log import Origin
from user_service.users.schemas import UserCreate

pytestmark = pytest.mark.anyio
ORIGIN = Origin("test", "r-1", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")
BODIES: list[dict[str, Any]] = [
    {"email": "bare{}@example.org"},
    {
        "email": "full{}@example.org",
        "external_id": "äöü-{}",
        "email_verified": True,
        "username": "Zoë-{}",
        "aliases": ["second{}@example.org", "third{}@example.org"],
        "given_name": "Zoë",
        "family_name": "李",
    }
    | {
        "display_name": "Zoë 李",
        "phone": "+4930123",
        "locale": "de-CH",
        "timezone": "Europe/Zurich",
        "status": "pending",
    }
    | {
        "preferences": {"deep": [{"er": None}]},
        "metadata": {"plan": "team", "seats": -3, "rate": 0.5, "on": True, "x": None},
    },
    {"email": "quoted{}@example.org", "external_id": "a\\b\"c'd-{}", "metadata": {"back\\slash": "tab and \\N"}},
]
# Times, tokens and ids are each user's own; the index of an identifier is as long in both.
USERS = """
SELECT split_part(external_id, '-', 1) AS name, email_verified, locale, timezone, status,
  prior_status, metadata, version, created_at = updated_at AS fresh, last_login_at, deleted_at, erased_at,
  created_at > now() - interval '1 hour' AND created_at <= now() + interval '1 minute' AS recent
FROM users WHERE id = ANY($1) ORDER BY id
"""
IDENTIFIERS = """
SELECT array_agg(row(kind, length(index))::text ORDER BY kind)
FROM identifiers WHERE user_id = ANY($1) GROUP BY user_id ORDER BY user_id
"""
TERMS = "SELECT array_agg(term ORDER BY term) FROM user_terms WHERE user_id = ANY($1) GROUP BY user_id ORDER BY user_id"
CHANGES = """
SELECT version, type, status, changed, actor, request_id, traceparent,
  changed_at > now() - interval '1 hour' AS recent, substr(event_id::text, 15, 1) AS uuid_version
FROM user_changes WHERE user_id = ANY($1) ORDER BY user_id, version
"""
PENDING = """
SELECT o.version, partition = get_byte(uuid_send(o.user_id), 15) % 16 AS placed, o.changed_at = c.changed_at AS same
FROM outbox o JOIN user_changes c USING (user_id, version) WHERE user_id = ANY($1) ORDER BY user_id, version
"""


def bodies(*, series: str, count: int) -> list[UserCreate]:
    made = []
    for number in range(count):
        fields = BODIES[number % len(BODIES)]
        place = f"{series}{number}"
        own: dict[str, Any] = {
            name: fields[name].format(place) for name in ("email", "external_id", "username") if name in fields
        }
        if "aliases" in fields:
            own["aliases"] = [alias.format(place) for alias in fields["aliases"]]
        made.append(UserCreate(**(fields | own)))
    return made


async def test_copied_users_terms_and_changes_are_those_of_an_insert(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        database = client.resources.open_services().database
        copied: list[Any] = []
        inserted: list[Any] = []
        async with database.unit_of_work(ORIGIN) as service:
            copied += await service.create(bodies(series="c", count=COPY_THRESHOLD + 1))
        for body in bodies(series="i", count=COPY_THRESHOLD + 1):
            async with database.unit_of_work(ORIGIN) as service:
                inserted += await service.create([body])
        connection = await asyncpg.connect(database_url)
        for query in (USERS, IDENTIFIERS, TERMS, CHANGES, PENDING):
            by_copy, by_insert = [
                [tuple(row) for row in await connection.fetch(query, [outcome.unwrap().id for outcome in outcomes])]
                for outcomes in (copied, inserted)
            ]
            assert len(by_copy) >= len(copied) / len(BODIES)
            assert by_copy == by_insert
        await connection.close()

        shown = (
            await client.get(f"/api/v1/users/{copied[1].unwrap().id}", headers={"Cache-Control": "no-cache"})
        ).json()
        assert (shown["family_name"], shown["external_id"], shown["phone"]) == ("李", "äöü-c1", "+4930123")
        assert shown["metadata"] == BODIES[1]["metadata"]
        assert shown["preferences"] == BODIES[1]["preferences"]
