"""Users of one set that ask for the same unique key. The first of them keeps it."""

from collections.abc import Iterable

from user_service.users.model import User
from user_service.values.emails import email_key


def find_twins(users: Iterable[tuple[int, User]]) -> dict[int, int]:
    """The positions of the users whose e-mail, in any spelling, or external id an earlier one has; with that one's.

    Deleted users hold no key, and neither does a user who is a twin.
    """
    emails: dict[str, int] = {}
    external_ids: dict[str, int] = {}
    twins: dict[int, int] = {}
    for position, user in users:
        if user.deleted_at is not None:
            continue
        key, external_id = email_key(user.email), user.external_id
        first = emails.get(key)
        if first is None and external_id is not None:
            first = external_ids.get(external_id)
        if first is not None:
            twins[position] = first
            continue
        emails[key] = position
        if external_id is not None:
            external_ids[external_id] = position
    return twins
