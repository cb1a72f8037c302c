"""What can be done with users: the rules' application service, in somebody else's transaction.

Every operation takes a set and gives an outcome for each item in its order; an operation on one user is a set of one.
The unit of work around it commits, then forgets `touched` in the cache.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from user_service.errors import (
    DuplicateInBatch,
    EmailTaken,
    ExternalIdTaken,
    FieldError,
    Forbidden,
    ServiceError,
    Unavailable,
    UserNotFound,
    ValidationFailed,
    VersionMismatch,
)
from user_service.users import rules
from user_service.users.change_log import Change, Origin
from user_service.users.duplicates import find_twins
from user_service.users.model import User
from user_service.users.prepared_users import PreparedUsers
from user_service.users.privacy.subject_data import SubjectData
from user_service.users.repository import UserRepository, claims_key
from user_service.users.rules import Rule
from user_service.users.schemas import OwnUpdate, UserCreate, UserUpdate, UserUpsert
from user_service.values.ids import parse_id

UPSERT_ATTEMPTS = 5
# Conditions that name no version: that the user is there at all, and one that no user can meet.
ANY_VERSION = 0
NO_VERSION = -1
HOLDER_GONE = "Another user had this e-mail address or external_id a moment ago; try again."


@dataclass(slots=True)
class Outcome:
    """What became of one item: a user as it is now, or the error that kept it from changing."""

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
class Target:
    """A user to change: the version that the caller has seen, if it says so, and the rule to apply."""

    id: UUID
    rule: Rule
    if_version: int | None = None


class UserService:
    """The rules of users, over one repository and for one origin."""

    def __init__(self, repository: UserRepository, origin: Origin, clock: Callable[[], datetime] | None = None) -> None:
        self.repository = repository
        self.origin = origin
        self.now = (clock or utc_now)()
        self.changed_versions: dict[UUID, int] = {}
        self.logged: set[UUID] = set()
        self.mark: Any = None

    @property
    def traces(self) -> SubjectData:
        return SubjectData(self.repository.session, self.repository.cipher, self.repository.index)

    async def savepoint(self) -> None:
        """From here on, what is done can be undone."""
        self.mark = await self.repository.session.begin_nested()

    async def rollback_to_savepoint(self) -> None:
        """Takes back what was done since `savepoint`."""
        await self.mark.rollback()
        self.changed_versions.clear()
        self.logged.clear()

    def unlogged(self) -> list[UUID]:
        """Whom an operation was about without a change to log: one that changed nothing."""
        return [user_id for user_id in self.changed_versions if user_id not in self.logged]

    async def create(
        self, bodies: Sequence[UserCreate], *, on_conflict: str = "fail", newcomers: PreparedUsers | None = None
    ) -> list[Outcome]:
        """New users. Where a key is taken: `fail`, `skip` (the holder stays), or `update` (see `merge`).

        `newcomers` are those of these bodies, where they were made before. Errors: EmailTaken, ExternalIdTaken,
        DuplicateInBatch, and those of an update.
        """
        newcomers = newcomers or PreparedUsers([rules.new_user(body) for body in bodies])
        new, twins = newcomers.users, newcomers.twins
        inserted = await self.repository.insert(newcomers.first, newcomers.rows)
        await self.log(
            [
                Change(user, "created", rules.filled_fields(body))
                for user, body in zip(new, bodies, strict=True)
                if user.id in inserted
            ]
        )
        outcomes = {place: duplicate(first) for place, first in twins.items()}
        refused = [place for place, user in enumerate(new) if user.id not in inserted and place not in twins]
        if refused:
            settled = await self.settle([(new[place], bodies[place]) for place in refused], on_conflict)
            outcomes |= {place: moved(outcome, refused) for place, outcome in zip(refused, settled, strict=True)}
        return [outcomes.get(place) or Outcome("created", user) for place, user in enumerate(new)]

    async def settle(self, refused: Sequence[tuple[User, UserCreate]], on_conflict: str) -> list[Outcome]:
        """What becomes of users whose key another one holds."""
        if on_conflict == "update":
            return await self.merge(refused)
        users = [user for user, _ in refused]
        holders = await self.holders_of(users) if on_conflict == "skip" else {}
        errors = await self.conflicts_of([user for user in users if user.id not in holders])
        return [
            Outcome("skipped", holders[user.id]) if user.id in holders else Outcome("failed", error=errors[user.id])
            for user in users
        ]

    async def merge(self, refused: Sequence[tuple[User, UserCreate]]) -> list[Outcome]:
        """Changes the holders in the fields that the bodies give, as an upsert does.

        The holder of the external id is meant; else that of the e-mail, unless it is known by another external id.
        """
        holders = await self.holders_of([user for user, _ in refused])
        errors = await self.conflicts_of([user for user, _ in refused if user.id not in holders])
        outcomes: list[Outcome] = [Outcome("failed")] * len(refused)
        targets, places = [], []
        for place, (user, body) in enumerate(refused):
            holder = holders.get(user.id)
            if holder is None:
                outcomes[place] = Outcome("failed", error=errors[user.id])
            elif user.external_id is not None and holder.external_id not in (None, user.external_id):
                outcomes[place] = Outcome("failed", error=EmailTaken())
            else:
                patch = UserUpdate.model_construct(body.model_fields_set, **vars(body))
                targets.append(Target(holder.id, rules.patched(patch)))
                places.append(place)
        for place, outcome in zip(places, await self.change(targets, "updated"), strict=True):
            gone = isinstance(outcome.error, UserNotFound)
            outcomes[place] = Outcome("failed", error=EmailTaken(HOLDER_GONE)) if gone else moved(outcome, places)
        return outcomes

    async def holders_of(self, users: Sequence[User]) -> dict[UUID, User]:
        """By the ids of `users`: the living user who has the external id, else the one who has the e-mail."""
        external_ids = [user.external_id for user in users if user.external_id is not None]
        by_external_id = await self.repository.find_by_external_ids(external_ids)
        by_email = await self.repository.find_by_emails([user.email for user in users])
        found = {user.id: by_external_id.get(user.external_id or "") or by_email.get(user.email) for user in users}
        return {user_id: holder for user_id, holder in found.items() if holder is not None}

    async def conflicts_of(self, refused: Sequence[User]) -> dict[UUID, ServiceError]:
        if not refused:
            return {}
        errors = await self.repository.conflicts(refused)
        # The holder of the key may be gone by the time that it is looked for; the caller can try again.
        return {user.id: errors.get(user.id) or EmailTaken(HOLDER_GONE) for user in refused}

    async def update(self, patches: Sequence[tuple[UUID, int | None, UserUpdate]]) -> list[Outcome]:
        """Merge patches of living users. Errors: UserNotFound, VersionMismatch, and what the patch breaks."""
        targets = [Target(user_id, rules.patched(patch), if_version) for user_id, if_version, patch in patches]
        return await self.change(targets, "updated")

    async def own(self, subject: str, *, known_as: str) -> User:
        """The living user whom a token's subject means: by `external_id`, by `id`, or by `either`.

        A subject that is one user's external_id and another's id could be used to pass for that other, and means
        nobody. Raises UserNotFound, Forbidden.
        """
        by_external_id = known_as != "id" and (await self.repository.find_by_external_ids([subject])).get(subject)
        user_id = id_of(subject) if known_as != "external_id" else None
        by_id = user_id is not None and (await self.repository.find_by_ids([user_id])).get(user_id)
        if by_external_id and by_id and by_external_id.id != by_id.id:
            raise Forbidden("The token's subject is the external_id of one user and the id of another.")
        user = by_external_id or by_id
        if not user:
            raise UserNotFound("The token's subject is not a user here.")
        return user

    async def update_own(self, user: User, patch: OwnUpdate, *, if_version: int | None = None) -> User:
        """A merge patch by the user. Raises Forbidden while the user is suspended, and what `update` raises."""
        if user.status == "suspended":
            raise Forbidden("A suspended user can't be changed by its own token.")
        (outcome,) = await self.update(
            [(user.id, if_version, UserUpdate.model_construct(patch.model_fields_set, **vars(patch)))]
        )
        return outcome.unwrap()

    async def delete(self, users: Sequence[tuple[UUID, int | None]]) -> list[Outcome]:
        """Soft deletes of living users. Errors: UserNotFound, VersionMismatch."""
        return await self.change([Target(user_id, rules.deleted, seen) for user_id, seen in users], "deleted")

    async def restore(self, users: Sequence[tuple[UUID, int | None]]) -> list[Outcome]:
        """Deleted users live again. Errors: UserNotFound, InvalidTransition, EmailTaken, ExternalIdTaken."""
        targets = [Target(user_id, rules.restored, seen) for user_id, seen in users]
        return await self.change(targets, "restored", among_deleted=True)

    async def move(self, user_id: UUID, status: str, *, if_version: int | None = None) -> User:
        """A lifecycle transition. Raises UserNotFound, VersionMismatch, InvalidTransition."""
        (outcome,) = await self.change([Target(user_id, rules.moved_to(status), if_version)], "updated")
        return outcome.unwrap()

    async def record_login(self, user_id: UUID) -> User:
        """Sets `last_login_at`. Raises UserNotFound."""
        (outcome,) = await self.change([Target(user_id, rules.logged_in)], "updated")
        return outcome.unwrap()

    async def upsert(self, external_id: str, body: UserUpsert, *, if_version: int | None = None) -> tuple[User, bool]:
        """The user of an external id, changed or made, and whether it was made."""
        if "external_id" in body.model_fields_set and body.external_id != external_id:
            fault = FieldError("/external_id", "external_id", "must be absent or equal to the one in the path")
            raise ValidationFailed(errors=[fault])
        patch = UserUpdate.model_construct(body.model_fields_set, **vars(body))
        for _ in range(UPSERT_ATTEMPTS):
            found = await self.repository.find_by_external_ids([external_id])
            if found:
                (outcome,) = await self.update([(found[external_id].id, if_version, patch)])
            elif if_version is not None:
                raise VersionMismatch("There is no user with this external_id, so that no version can match.")
            else:
                (outcome,) = await self.create([self.creation_of(external_id, body)])
            if not await self.is_overtaken(outcome, external_id, was_there=bool(found)):
                return outcome.unwrap(), not found
        raise Unavailable("This user is being changed by too many at once.")

    async def is_overtaken(self, outcome: Outcome, external_id: str, *, was_there: bool) -> bool:
        """Whether somebody else made or deleted the user of an external id between the look and the write."""
        if isinstance(outcome.error, EmailTaken) and not was_there:
            # By another user, or by this very one, who is there now.
            return bool(await self.repository.find_by_external_ids([external_id]))
        return isinstance(outcome.error, UserNotFound if was_there else ExternalIdTaken)

    def creation_of(self, external_id: str, body: UserUpsert) -> UserCreate:
        given = {name: value for name in body.model_fields_set if (value := getattr(body, name)) is not None}
        return UserCreate(**{**given, "external_id": external_id})

    async def erase(
        self, user_id: UUID, *, if_version: int | None = None, names_of: Callable[[User], Collection[str]]
    ) -> None:
        """Takes away all that is known of a person, for good; a tombstone stays, and an erased user stays as is.

        `names_of` gives the names that the person has in the audit trail. Raises UserNotFound, VersionMismatch.
        """
        user = (await self.repository.lock([user_id])).get(user_id)
        if user is None:
            raise UserNotFound
        check_version(user, if_version)
        self.changed_versions[user.id] = user.version
        if not user.is_erased:
            after = rules.erased(user, self.now)
            after.version, after.updated_at = user.version + 1, max(self.now, user.updated_at)
            await self.repository.erase(user, after)
            await self.log([Change(after, "erased", tuple(rules.changed_fields(user, after)))])
        await self.traces.erase(user, names_of(user))

    async def purge(self, user_id: UUID, *, if_version: int | None = None) -> None:
        """Removes a user's row, deleted or not. Raises UserNotFound, VersionMismatch."""
        user = (await self.repository.lock([user_id])).get(user_id)
        if user is None:
            raise UserNotFound
        check_version(user, if_version)
        await self.repository.purge([user])
        user.version += 1
        await self.log([Change(user, "purged", ())])
        await self.traces.take_out(user)

    async def change(self, targets: Sequence[Target], kind: str, *, among_deleted: bool = False) -> list[Outcome]:
        """Applies each target's rule to its user, under a lock, and writes what has changed."""
        locked = await self.repository.lock(target.id for target in targets)
        outcomes: list[Outcome] = []
        first_places: dict[UUID, int] = {}
        for place, target in enumerate(targets):
            first = first_places.setdefault(target.id, place)
            known = locked.get(target.id)
            outcomes.append(self.apply(target, known, kind, among_deleted) if first == place else duplicate(first))
        self.refuse_twins(outcomes, locked)
        # What stays as it is counts as touched: the write that made it so may have been cut off before the cache knew.
        self.changed_versions |= {
            user.id: user.version for outcome in outcomes if (user := outcome.user) and user is locked[user.id]
        }
        pairs = [
            (locked[after.id], after)
            for outcome in outcomes
            if (after := outcome.user) is not None and after is not locked[after.id]
        ]
        refused = await self.repository.update(pairs)
        await self.log(
            [
                Change(after, kind_of(kind, changed), changed)
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

    def refuse_twins(self, outcomes: list[Outcome], locked: Mapping[UUID, User]) -> None:
        """Fails whoever asks for a key that another user of the set keeps or asked for earlier."""
        changed = [(place, outcome.user) for place, outcome in enumerate(outcomes) if outcome.user is not None]
        if len(changed) > 1:
            # Stable: those who keep their keys come first.
            changed.sort(key=lambda item: claims_key(locked[item[1].id], item[1]))
            for place, first in find_twins(changed).items():
                outcomes[place] = duplicate(first)

    def apply(self, target: Target, user: User | None, kind: str, among_deleted: bool) -> Outcome:
        """The user as the rule leaves it: the same object when nothing changes."""
        try:
            if user is None or (user.is_deleted and not among_deleted):
                raise UserNotFound
            check_version(user, target.if_version)
            after = target.rule(user, self.now)
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


def utc_now() -> datetime:
    return datetime.now(UTC)


def id_of(text: str) -> UUID | None:
    """The id that a text is, in the form that this service writes."""
    user_id = parse_id(text)
    return user_id if str(user_id) == text else None


def duplicate(first: int) -> Outcome:
    return Outcome("failed", error=DuplicateInBatch(first=first))


def moved(outcome: Outcome, places: Sequence[int]) -> Outcome:
    """The outcome of an item of a subset; `places` are the places of the subset's items in the whole set."""
    if isinstance(outcome.error, DuplicateInBatch):
        return duplicate(places[outcome.error.first])
    return outcome


def kind_of(kind: str, changed: Sequence[str]) -> str:
    return "status_changed" if kind == "updated" and "status" in changed else kind


def check_version(user: User, if_version: int | None) -> None:
    if if_version not in (None, ANY_VERSION, user.version):
        raise VersionMismatch(f"The user is at version {user.version}, not at the one asked for; read it again.")
