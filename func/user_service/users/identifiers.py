"""Identifiers: values that only one living user can have. Table `identifiers` has the blind index of each.

1. A living user holds its e-mail address and aliases, which are of one kind, its username and its external id.
2. What users ask for is inserted first, in the order of the primary key. PostgreSQL decides which of several
   transactions gets an identifier. Those that ask once do not wait for each other, since all ask in one order. A create
   with `on_conflict=update` asks for the new users, then for what it changes in those that are there: where two of
   these wait for each other, PostgreSQL ends one, and it is run again.
3. A user that does not get all that it asks for is refused, and gives back what it got.
4. An identifier that one user of a set gives up and another one asks for is passed on by an update, so that users can
   exchange theirs in one batch. When the one is refused, it keeps the identifier, and the other is refused too.
5. What users give up, because they were changed, deleted, erased or purged, is deleted last.

Only the transaction that has locked a user changes the rows of that user.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME, BlindIndex, encode_text, unpack_term
from user_service.errors import AliasTaken, EmailTaken, ExternalIdTaken, ServiceError, UsernameTaken
from user_service.postgres.session import Session
from user_service.postgres.statements import Statement, text
from user_service.users.model import User
from user_service.values.emails import email_domain

# A byte for the kind, and the blind index, or the external id in UTF-8.
Identifier = bytes
# An identifier, and the user that has it or asks for it.
Row = tuple[Identifier, UUID]
TAKEN: Final[Mapping[int, type[ServiceError]]] = {
    EMAIL: EmailTaken,
    USERNAME: UsernameTaken,
    EXTERNAL_ID: ExternalIdTaken,
}
EMAIL_KIND, USERNAME_KIND, EXTERNAL_ID_KIND = (bytes([kind]) for kind in (EMAIL, USERNAME, EXTERNAL_ID))

ROWS: Final = (
    "unnest(CAST(:kinds AS smallint[]), CAST(:indexes AS bytea[]), CAST(:ids AS uuid[])) AS v(kind, index, user_id)"
)
# In the order of the rows that `encode_identifiers` makes.
CLAIM: Final = text(
    f"INSERT INTO identifiers (kind, index, user_id) SELECT v.kind, v.index, v.user_id FROM {ROWS}"  # noqa: S608
    " ORDER BY v.kind, length(v.index), v.index ON CONFLICT DO NOTHING RETURNING kind, index, user_id"
)
PASS_ON: Final = text(
    f"UPDATE identifiers AS i SET user_id = v.user_id FROM {ROWS} WHERE i.kind = v.kind AND i.index = v.index"  # noqa: S608
)
FREE: Final = text(
    f"DELETE FROM identifiers AS i USING {ROWS}"  # noqa: S608
    " WHERE i.kind = v.kind AND i.index = v.index AND i.user_id = v.user_id"
)


def identifiers(user: User, index: BlindIndex) -> list[Identifier]:
    """The identifiers that a user has, or had before it was deleted; the e-mail address first."""
    if not user.email:
        return []
    found = [EMAIL_KIND + index.email(user.email)]
    if user.aliases:
        found += [EMAIL_KIND + index.email(alias) for alias in user.aliases]
    if user.username is not None:
        found.append(USERNAME_KIND + index.username(user.username))
    if user.external_id is not None:
        found.append(EXTERNAL_ID_KIND + encode_text(user.external_id))
    return found


def held(user: User, index: BlindIndex) -> list[Identifier]:
    """The identifiers that a user holds: a deleted one holds none."""
    return [] if user.is_deleted else identifiers(user, index)


def identifier_hashes(user: User, index: BlindIndex) -> list[bytes]:
    """The blind indexes of the identifiers that a user has, or had before it was deleted."""
    found = [key[1:] for key in identifiers(user, index) if key[0] != EXTERNAL_ID]
    return found if user.external_id is None else [*found, index.external_id(user.external_id)]


def search_terms(user: User, index: BlindIndex) -> set[int]:
    """The terms that find a user: of its names, its metadata, and the domains of its addresses. A deleted user, which
    holds no identifier, is found by those that it had.
    """
    terms = index.user_terms(names(user), user.metadata)
    if user.email:
        terms.add(index.domain(email_domain(user.email)))
        for alias in user.aliases or ():
            terms.add(index.domain(email_domain(alias)))
    if user.deleted_at is not None:
        terms.update(map(unpack_term, identifier_hashes(user, index)))
    return terms


def names(user: User) -> tuple[str | None, ...]:
    return user.given_name, user.family_name, user.display_name


def stored_terms(user: User, index: BlindIndex) -> set[int]:
    """All terms that may be stored for a user: an earlier version, or another setting, has stored others."""
    return search_terms(user, index) | index.former_terms(names(user))


def compare_terms(before: User, after: User, index: BlindIndex) -> tuple[set[int], set[int]]:
    """The terms that a change removes, and those that it adds."""
    old, new = search_terms(before, index), search_terms(after, index)
    removed = old if names(before) == names(after) else old | index.former_terms(names(before))
    return removed - new, new - old


def taken(user: User, identifier: Identifier, index: BlindIndex) -> ServiceError:
    """The error of a user that asks for what another one has."""
    kind = identifier[0]
    if kind == EMAIL and identifier[1:] != index.email(user.email):
        return AliasTaken()
    return TAKEN[kind]()


def is_moved(before: User, after: User) -> bool:
    """Whether a change may alter which identifiers a user holds."""
    return (
        before.email != after.email
        or before.external_id != after.external_id
        or before.username != after.username
        or before.aliases != after.aliases
        or before.is_deleted != after.is_deleted
    )


class Move(NamedTuple):
    """What a change does to the identifiers of a user. `user` is the changed one."""

    user: User
    kept: Sequence[Identifier]
    asked: Sequence[Identifier]
    given_up: Sequence[Identifier]


def compare_held(before: User, after: User, index: BlindIndex) -> Move:
    old, new = held(before, index), held(after, index)
    return Move(
        after,
        kept=[key for key in new if key in old],
        asked=[key for key in new if key not in old],
        given_up=[key for key in old if key not in new],
    )


class IdentifierTable:
    """Claims and frees identifiers, in the transaction of `session`."""

    def __init__(self, session: Session, index: BlindIndex) -> None:
        self.session = session
        self.index = index

    async def claim(self, users: Sequence[User], wanted: Sequence[Sequence[Identifier]]) -> dict[UUID, ServiceError]:
        """Gives new users the identifiers that they want. Returns the errors of those that get none."""
        asked = [(key, user.id) for user, keys in zip(users, wanted, strict=True) for key in keys]
        refused = await self.move_rows(asked, {})
        return {user.id: taken(user, refused[user.id], self.index) for user in users if user.id in refused}

    async def move(self, moves: Sequence[Move]) -> dict[UUID, ServiceError]:
        """Claims and frees what changes of locked users need.

        Returns the errors of the users whose change must not be written; they hold what they held.
        """
        asked = [(key, move.user.id) for move in moves for key in move.asked]
        given_up = {key: move.user.id for move in moves for key in move.given_up}
        refused = await self.move_rows(asked, given_up)
        users = [move.user for move in moves if move.user.id in refused]
        return {user.id: taken(user, refused[user.id], self.index) for user in users}

    async def move_rows(self, wanted: Sequence[Row], given_up: Mapping[Identifier, UUID]) -> dict[UUID, Identifier]:
        """Returns what each user that is refused did not get."""
        asked = [row for row in wanted if row[0] not in given_up]
        passed = [row for row in wanted if row[0] in given_up]
        granted = await self.insert(asked)
        # Of several that a user does not get, the first.
        refused = {row[1]: row[0] for row in reversed(asked) if row not in granted}
        while kept := {user_id: key for key, user_id in passed if given_up[key] in refused and user_id not in refused}:
            refused |= kept
        passed = [row for row in passed if row[1] not in refused]
        await self.change(PASS_ON, passed)
        passed_keys = {key for key, _ in passed}
        freed = [row for row in given_up.items() if row[1] not in refused and row[0] not in passed_keys]
        await self.free([row for row in granted if row[1] in refused] + freed)
        return refused

    async def insert(self, rows: Sequence[Row]) -> set[Row]:
        """Inserts the identifiers that no living user has. Returns those rows."""
        if not rows:
            return set()
        inserted = await self.session.execute(CLAIM, row_arrays(rows))
        return {(bytes([kind]) + value, user_id) for kind, value, user_id in inserted}

    async def free_all(self, users: Iterable[User]) -> None:
        """Frees all that locked users hold."""
        await self.free([(key, user.id) for user in users for key in held(user, self.index)])

    async def free(self, rows: Sequence[Row]) -> None:
        await self.change(FREE, rows)

    async def change(self, statement: Statement, rows: Sequence[Row]) -> None:
        if rows:
            await self.session.execute(statement, row_arrays(rows))


def row_arrays(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    return {
        "kinds": [key[0] for key, _ in rows],
        "indexes": [key[1:] for key, _ in rows],
        "ids": [user_id for _, user_id in rows],
    }
