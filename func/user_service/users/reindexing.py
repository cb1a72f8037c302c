"""Writes the search terms of all users again, while the service runs: of an earlier version, or for SEARCH_PREFIXES.

A batch is one transaction that locks its users, so that no change of theirs is overtaken. A run that ended at any
moment is begun again; what is right already stays.
"""

from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

from user_service.encryption.key_registry import PREFIXES
from user_service.postgres.statements import text
from user_service.users.repository import UserRepository
from user_service.users.unit_of_work import UserDatabase, retry_contended

BATCH_SIZE: Final = 200
NEXT: Final = text("SELECT id FROM users WHERE id > :after ORDER BY id LIMIT :limit")
MARK: Final = text("INSERT INTO service_meta (name, value) VALUES (:name, 'true') ON CONFLICT DO NOTHING")
UNMARK: Final = text("DELETE FROM service_meta WHERE name = :name")


async def reindex(database: UserDatabase, *, show: Callable[[int], None]) -> int:
    """Returns the number of users. `show` is called with the number so far. Raises DatabaseUnavailable, Contended.

    Queries find beginnings of words after a run with SEARCH_PREFIXES, until one without it begins.
    """
    stores_prefixes = database.index.stores_prefixes
    if not stores_prefixes:
        async with database.transaction() as session:
            await session.execute(UNMARK, {"name": PREFIXES})
    total, after = 0, UUID(int=0)
    while ids := await retry_contended(partial(write_batch, database, after)):
        total, after = total + len(ids), ids[-1]
        show(total)
    if stores_prefixes:
        async with database.transaction() as session:
            await session.execute(MARK, {"name": PREFIXES})
    return total


async def write_batch(database: UserDatabase, after: UUID) -> list[UUID]:
    """Writes the terms of the next users in the order of ids; returns their ids."""
    async with database.transaction() as session:
        ids: list[UUID] = (await session.execute(NEXT, {"after": after, "limit": BATCH_SIZE})).scalars()
        repository = UserRepository(session, database.cipher, database.index)
        await repository.write_terms((await repository.lock(ids)).values())
    return ids
