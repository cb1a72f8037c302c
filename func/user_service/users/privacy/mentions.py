"""The users that a stored response names without a change: their ids, and keyed hashes of their keys."""

from collections.abc import Iterable
from uuid import UUID

from user_service.encryption.blind_index import BlindIndex
from user_service.values.emails import normalise_email
from user_service.values.ids import parse_id


def mention_item(item: object, index: BlindIndex) -> list[UUID]:
    """The mentions of a batch item as it was sent: its id and its identifiers, where it has them."""
    if not isinstance(item, dict):
        return []
    data = item.get("data")
    keys = data if isinstance(data, dict) else {}
    aliases = keys.get("aliases")
    emails = [keys.get("email"), *(aliases if isinstance(aliases, list) else ())]
    mentions = [user_id for user_id in [mention_id(item.get("id"))] if user_id is not None]
    return mentions + mention_keys(emails, [keys.get("external_id")], [keys.get("username")], index)


def mention_keys(
    emails: Iterable[object], external_ids: Iterable[object], usernames: Iterable[object], index: BlindIndex
) -> list[UUID]:
    indexes = [index_email(value, index) for value in emails if isinstance(value, str)]
    indexes += [index.external_id(value) for value in external_ids if isinstance(value, str)]
    indexes += [index_username(value, index) for value in usernames if isinstance(value, str)]
    return [UUID(bytes=key) for key in indexes if key is not None]


def mention_id(value: object) -> UUID | None:
    return parse_id(value) if isinstance(value, str) else None


def index_email(email: str, index: BlindIndex) -> bytes | None:
    """The blind index of an address in any spelling, None for text that is no address."""
    try:
        return index.email(normalise_email(email))
    except ValueError:
        return None


def index_username(username: str, index: BlindIndex) -> bytes:
    """The blind index of a username in any spelling."""
    return index.username(username.strip())
