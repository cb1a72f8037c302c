"""Duplicates: users of one set that ask for the same unique key. The first of them gets it."""

from collections.abc import Iterable
from uuid import UUID

from user_service.users.model import User
from user_service.values.emails import email_key


def find_duplicates(users: Iterable[tuple[int, User]]) -> dict[int, int]:
    """The positions of users whose e-mail, in any spelling, external id or id an earlier user has, with its position.

    Deleted users and duplicates hold no key.
    """
    emails: dict[str, int] = {}
    external_ids: dict[str, int] = {}
    ids: dict[UUID, int] = {}
    duplicates: dict[int, int] = {}
    for position, user in users:
        if user.deleted_at is not None:
            continue
        key, external_id = email_key(user.email), user.external_id
        first = emails.get(key)
        if first is None and external_id is not None:
            first = external_ids.get(external_id)
        if first is None:
            first = ids.get(user.id)
        if first is not None:
            duplicates[position] = first
            continue
        emails[key] = ids[user.id] = position
        if external_id is not None:
            external_ids[external_id] = position
    return duplicates
