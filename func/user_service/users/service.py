"""Operations on users: create, update, suspend, activate, delete, restore, erase, purge; in the caller's transaction.

Most take a set and return an outcome for each item, in order; an operation on one user is a set of one. The unit of
work around them commits, then invalidates `changed_versions` in the cache.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from user_service.errors import (
    DuplicateInBatch,
    EmailTaken,
    ExternalIdTaken,
    FieldError,
    Forbidden,
    IdTaken,
    ServiceError,
    Unavailable,
    UsernameTaken,
    UserNotFound,
    ValidationFailed,
)
from user_service.postgres.session import Savepoint
from user_service.users import rules
from user_service.users.bulk_insert import PreparedUsers
from user_service.users.change_log import Change, Origin
from user_service.users.duplicates import find_contested
from user_service.users.identifiers import Move, compare_held, is_moved
from user_service.users.model import User
from user_service.users.privacy.erasure import Erasure
from user_service.users.privacy.subject_data import ActorNames
from user_service.users.repository import UserRepository
from user_service.users.rules import Rule
from user_service.users.schemas import ImportedUser, OwnUpdate, UserCreate, UserUpdate, UserUpsert
from user_service.users.version_conditions import Condition, check_condition
from user_service.values.ids import parse_canonical_id

UPSERT_ATTEMPTS = 5
HOLDER_CHANGED = "Another user had this id, external_id or e-mail address a moment ago; try again."


@dataclass(slots=True)
class Outcome:
    """The result of one item: the user as it is now, or the error that prevented the change."""

    status: str
    user: User | None = None
    error: ServiceError | None = None

    def unwrap(self) -> User:
        """The user. Raises the error."""
        if self.error is not None:
            raise self.error
        assert self.user is not None
        return self.user


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A user to change, the rule to apply, and the condition that the user must meet, if any."""

    id: UUID
    rule: Rule
    condition: Condition | None = None


class UserService:
    """Applies the rules of users, over one repository and for one origin."""

    def __init__(self, repository: UserRepository, origin: Origin) -> None:
        self.repository = repository
        self.origin = origin
        self.now = datetime.now(UTC)
        self.changed_versions: dict[UUID, int] = {}
        self.logged: set[UUID] = set()
        self.started: Savepoint | None = None

    @property
    def erasure(self) -> Erasure:
        return Erasure(self.repository.session, self.repository.cipher, self.repository.index)

    async def savepoint(self) -> None:
        """Begins changes that `rollback_to_savepoint` undoes."""
        self.started = await self.repository.session.savepoint()

    async def rollback_to_savepoint(self) -> None:
        """Undoes all changes since `savepoint`."""
        assert self.started is not None
        await self.started.rollback()
        self.changed_versions.clear()
        self.logged.clear()

    @asynccontextmanager
    async def undone_on_error(self) -> AsyncIterator[None]:
        """Undoes the changes within when the block raises, without ending the transaction."""
        versions, logged = dict(self.changed_versions), set(self.logged)
        try:
            async with await self.repository.session.savepoint():
                yield
        except Exception:
            self.changed_versions, self.logged = versions, logged
            raise

    def unlogged(self) -> list[UUID]:
        """The ids of users that an operation was about without changing them."""
        return [user_id for user_id in self.changed_versions if user_id not in self.logged]

    async def create(
        self, bodies: Sequence[UserCreate], *, on_conflict: str = "fail", prepared: PreparedUsers | None = None
    ) -> list[Outcome]:
        """Creates users. Where an identifier is taken: `fail`, `skip` (the holder of the id, external id or e-mail
        stays), or `update` (see `merge`).

        `prepared` are the users of these bodies, where they were prepared. Errors: EmailTaken, UsernameTaken,
        ExternalIdTaken, IdTaken, DuplicateInBatch, and those of an update.
        """
        prepared = prepared or PreparedUsers.from_bodies(bodies, self.repository.index)
        new, duplicates = prepared.users, prepared.duplicates
        kept = [body.id for body in bodies if type(body) is ImportedUser and body.id is not None]
        used = await self.repository.find_used_ids(kept) if kept else frozenset()
        errors = await self.repository.insert(*prepared.without(used))
        errors |= {user_id: IdTaken() for user_id in used}
        if not errors and not duplicates:
            await self.log(prepared.changes)
            return [Outcome("created", user) for user in new]
        await self.log(
            [
                change
                for place, change in enumerate(prepared.changes)
                if change.user.id not in errors and place not in duplicates
            ]
        )
        outcomes = {place: fail_duplicate(first) for place, first in duplicates.items()}
        refused = [place for place, user in enumerate(new) if user.id in errors and place not in duplicates]
        if refused:
            pairs = [(new[place], bodies[place]) for place in refused]
            resolved = await self.resolve_conflicts(pairs, on_conflict, errors)
            outcomes |= {place: relocated(outcome, refused) for place, outcome in zip(refused, resolved, strict=True)}
        return [outcomes.get(place) or Outcome("created", user) for place, user in enumerate(new)]

    async def resolve_conflicts(
        self, refused: Sequence[tuple[User, UserCreate]], on_conflict: str, errors: Mapping[UUID, ServiceError]
    ) -> list[Outcome]:
        """The outcomes of new users that got no row, by their ids in `errors`."""
        if on_conflict == "update":
            return await self.merge(refused, errors)
        holders = await self.find_holders([user for user, _ in refused], errors) if on_conflict == "skip" else {}
        return [
            Outcome("skipped", holders[user.id]) if user.id in holders else Outcome("failed", error=errors[user.id])
            for user, _ in refused
        ]

    async def merge(
        self, refused: Sequence[tuple[User, UserCreate]], errors: Mapping[UUID, ServiceError]
    ) -> list[Outcome]:
        """Changes the holders in the fields that the bodies give, as an upsert does.

        The user of the id is changed, else the holder of the external id; else that of the e-mail, unless it has
        another external id, or the address is one of its aliases.
        """
        holders = await self.find_holders([user for user, _ in refused], errors)
        outcomes: list[Outcome] = [Outcome("failed")] * len(refused)
        plans, places = [], []
        for place, (user, body) in enumerate(refused):
            holder = holders.get(user.id)
            if holder is None:
                outcomes[place] = Outcome("failed", error=errors[user.id])
            elif not rules.is_same_user(user, holder):
                outcomes[place] = Outcome("failed", error=EmailTaken())
            else:
                plans.append(PlannedChange(holder.id, rules.merged(body)))
                places.append(place)
        for place, outcome in zip(places, await self.change(plans, "updated"), strict=True):
            gone = isinstance(outcome.error, UserNotFound)
            outcomes[place] = (
                Outcome("failed", error=EmailTaken(HOLDER_CHANGED)) if gone else relocated(outcome, places)
            )
        return outcomes

    async def find_holders(self, users: Sequence[User], errors: Mapping[UUID, ServiceError]) -> dict[UUID, User]:
        """By the ids of `users`: the living user of a taken id, else of the external id, else of the e-mail."""
        used = [user.id for user in users if isinstance(errors[user.id], IdTaken)]
        by_id = await self.repository.find_by_ids(used)
        external_ids = [user.external_id for user in users if user.external_id is not None]
        by_external_id = await self.repository.find_by_external_ids(external_ids)
        by_email = await self.repository.find_by_emails([user.email for user in users])
        found = {
            user.id: by_id.get(user.id) or by_external_id.get(user.external_id or "") or by_email.get(user.email)
            for user in users
        }
        return {user_id: holder for user_id, holder in found.items() if holder is not None}

    async def update(self, patches: Sequence[tuple[UUID, Condition | None, UserUpdate]]) -> list[Outcome]:
        """Applies merge patches to living users. Errors: UserNotFound, VersionMismatch, those of `rules.patched`."""
        plans = [PlannedChange(user_id, rules.patched(patch), condition) for user_id, condition, patch in patches]
        return await self.change(plans, "updated")

    async def get_by_subject(self, subject: str, *, subject_type: str) -> User:
        """The living user that a token's subject identifies: by `external_id`, by `id`, or by `either`.

        A subject that is the external_id of one user and the id of another is refused: it could be used to impersonate
        the other. Raises UserNotFound, Forbidden.
        """
        by_external_id = subject_type != "id" and (await self.repository.find_by_external_ids([subject])).get(subject)
        user_id = parse_canonical_id(subject) if subject_type != "external_id" else None
        by_id = user_id is not None and (await self.repository.find_by_ids([user_id])).get(user_id)
        if by_external_id and by_id and by_external_id.id != by_id.id:
            raise Forbidden("The token's subject is the external_id of one user and the id of another.")
        user = by_external_id or by_id
        if not user:
            raise UserNotFound("The token's subject is not a user here.")
        return user

    async def update_own(self, user: User, patch: OwnUpdate, *, condition: Condition | None = None) -> User:
        """Applies a merge patch by the user itself. Raises Forbidden for a suspended user, and what `update` raises."""
        if user.status == "suspended":
            raise Forbidden("A suspended user can't be changed by its own token.")
        update = UserUpdate.model_construct(patch.model_fields_set, **vars(patch))
        return single_user(await self.update([(user.id, condition, update)]))

    async def delete(self, users: Sequence[tuple[UUID, Condition | None]]) -> list[Outcome]:
        """Deletes living users, who can be restored. Errors: UserNotFound, VersionMismatch."""
        return await self.change(
            [PlannedChange(user_id, rules.deleted, condition) for user_id, condition in users], "deleted"
        )

    async def restore(self, users: Sequence[tuple[UUID, Condition | None]]) -> list[Outcome]:
        """Restores deleted users. Errors: UserNotFound, InvalidTransition, those of `IdentifierTable`."""
        plans = [PlannedChange(user_id, rules.restored, condition) for user_id, condition in users]
        return await self.change(plans, "restored", among_deleted=True)

    async def set_status(self, user_id: UUID, status: str, *, condition: Condition | None = None) -> User:
        """Suspends or activates a user. Raises UserNotFound, VersionMismatch, InvalidTransition."""
        return single_user(await self.change([PlannedChange(user_id, rules.set_status(status), condition)], "updated"))

    async def record_login(self, user_id: UUID, *, condition: Condition | None = None) -> User:
        """Sets `last_login_at`. Raises UserNotFound, VersionMismatch."""
        return single_user(await self.change([PlannedChange(user_id, rules.logged_in, condition)], "updated"))

    async def upsert(
        self, external_id: str, body: UserUpsert, *, condition: Condition | None = None
    ) -> tuple[User, bool]:
        """Changes or creates the user of an external id. Returns the user, and whether it was created."""
        if "external_id" in body.model_fields_set and body.external_id != external_id:
            fault = FieldError("/external_id", "external_id", "must be absent or equal to the one in the path")
            raise ValidationFailed(errors=[fault])
        patch = UserUpdate.model_construct(body.model_fields_set, **vars(body))
        for _ in range(UPSERT_ATTEMPTS):
            found = await self.repository.find_by_external_ids([external_id])
            if found:
                (outcome,) = await self.update([(found[external_id].id, condition, patch)])
            else:
                check_condition(condition, None)
                (outcome,) = await self.create([creation_body(external_id, body)])
            if not await self.is_overtaken(outcome, external_id, was_there=bool(found)):
                return outcome.unwrap(), not found
        raise Unavailable("Too many requests are changing this user at once.")

    async def is_overtaken(self, outcome: Outcome, external_id: str, *, was_there: bool) -> bool:
        """Whether another transaction created or deleted the user of an external id between the read and the write."""
        if isinstance(outcome.error, EmailTaken | UsernameTaken) and not was_there:
            # The holder may be this user, which another transaction has just created.
            return bool(await self.repository.find_by_external_ids([external_id]))
        return isinstance(outcome.error, UserNotFound if was_there else ExternalIdTaken)

    async def erase(self, user_id: UUID, *, condition: Condition | None = None, actor_names: ActorNames) -> None:
        """Erases all personal data of a user for good and leaves a tombstone, which can be erased again without effect.

        `actor_names` returns the names that the user has in the audit trail. Raises UserNotFound, VersionMismatch.
        """
        user = await self.lock_one(user_id, condition)
        self.changed_versions[user.id] = user.version
        if not user.is_erased:
            after = rules.erased(user, self.now)
            after.version, after.updated_at = user.version + 1, max(self.now, user.updated_at)
            await self.repository.erase(user, after)
            await self.log([Change(after, "erased", tuple(rules.changed_fields(user, after)))])
        await self.erasure.erase([user], actor_names)

    async def purge(self, user_id: UUID, *, condition: Condition | None = None, actor_names: ActorNames) -> None:
        """Removes a user's row, deleted or not, and erases what else is stored about the user, as `erase` does.

        Raises UserNotFound, VersionMismatch.
        """
        await self.purge_locked([await self.lock_one(user_id, condition)], actor_names)

    async def purge_locked(self, users: Sequence[User], actor_names: ActorNames) -> None:
        await self.repository.purge(users)
        for user in users:
            user.version += 1
        await self.log([Change(user, "purged", ()) for user in users])
        await self.erasure.erase(users, actor_names)

    async def lock_one(self, user_id: UUID, condition: Condition | None) -> User:
        """The user, deleted or not. Raises UserNotFound, VersionMismatch."""
        user = (await self.repository.lock([user_id])).get(user_id)
        if user is None:
            raise UserNotFound
        check_condition(condition, user.version)
        return user

    async def change(self, plans: Sequence[PlannedChange], kind: str, *, among_deleted: bool = False) -> list[Outcome]:
        """Applies each rule to its user, under a lock, and writes the users that it has changed."""
        locked = await self.repository.lock(plan.id for plan in plans)
        outcomes: list[Outcome] = []
        first_places: dict[UUID, int] = {}
        for place, plan in enumerate(plans):
            first = first_places.setdefault(plan.id, place)
            user = locked.get(plan.id)
            outcomes.append(self.apply(plan, user, kind, among_deleted) if first == place else fail_duplicate(first))
        moves = self.refuse_duplicates(outcomes, locked)
        # An unchanged user is invalidated too: an earlier write may have been committed without reaching the cache.
        self.changed_versions |= {
            user.id: user.version for outcome in outcomes if (user := outcome.user) and user is locked[user.id]
        }
        pairs = [
            (locked[after.id], after)
            for outcome in outcomes
            if (after := outcome.user) is not None and after is not locked[after.id]
        ]
        refused = await self.repository.update(pairs, moves)
        await self.log(
            [
                Change(after, rules.change_type(kind, changed), changed)
                for before, after in pairs
                if after.id not in refused and (changed := tuple(rules.changed_fields(before, after)))
            ]
        )
        return [
            Outcome("failed", error=refused[outcome.user.id])
            if outcome.user is not None and outcome.user.id in refused
            else outcome
            for outcome in outcomes
        ]

    def refuse_duplicates(self, outcomes: list[Outcome], locked: Mapping[UUID, User]) -> list[Move]:
        """Fails the users that ask for an identifier which another user of the set keeps or asked for earlier.

        Returns what the other users do to their identifiers.
        """
        index = self.repository.index
        users = {place: user for place, outcome in enumerate(outcomes) if (user := outcome.user) is not None}
        moves = {
            place: compare_held(locked[user.id], user, index)
            for place, user in users.items()
            if is_moved(locked[user.id], user)
        }
        for place, first in find_contested(users, moves, index).items():
            outcomes[place] = fail_duplicate(first)
            del moves[place]
        return list(moves.values())

    def apply(self, plan: PlannedChange, user: User | None, kind: str, among_deleted: bool) -> Outcome:
        """The outcome with the changed user, or with the same object when nothing changes."""
        try:
            if user is None or (user.is_deleted and not among_deleted):
                raise UserNotFound
            check_condition(plan.condition, user.version)
            after = plan.rule(user, self.now)
        except ServiceError as error:
            return Outcome("failed", error=error)
        if not rules.changed_fields(user, after):
            return Outcome(kind, user)
        after = copy(after)
        after.version, after.updated_at = user.version + 1, max(self.now, user.updated_at)
        return Outcome(kind, after)

    async def log(self, changes: Sequence[Change]) -> None:
        await self.repository.append_changes(changes, self.origin, self.now)
        versions = {change.user.id: change.user.version for change in changes}
        self.changed_versions |= versions
        self.logged |= versions.keys()


def single_user(outcomes: Sequence[Outcome]) -> User:
    """The user of a set of one. Raises the error of its outcome."""
    (outcome,) = outcomes
    return outcome.unwrap()


def creation_body(external_id: str, body: UserUpsert) -> UserCreate:
    given = {name: value for name in body.model_fields_set if (value := getattr(body, name)) is not None}
    return UserCreate(**{**given, "external_id": external_id})


def fail_duplicate(first: int) -> Outcome:
    return Outcome("failed", error=DuplicateInBatch(first=first))


def relocated(outcome: Outcome, places: Sequence[int]) -> Outcome:
    """The outcome of an item of a subset, for the whole set, in which the subset's items have these places."""
    if isinstance(outcome.error, DuplicateInBatch):
        return fail_duplicate(places[outcome.error.first])
    return outcome
