"""The users that a stored response names without a change: their ids, and keyed hashes of their keys."""

from collections.abc import Iterable
from uuid import UUID

from user_service.encryption.blind_index import BlindIndex
from user_service.values.emails import normalise_email
from user_service.values.ids import parse_id


def mention_item(item: object, index: BlindIndex) -> list[UUID]:
    """The mentions of a batch item as it was sent: its id, e-mail address and external id, where it has them."""
    if not isinstance(item, dict):
        return []
    data = item.get("data")
    keys = data if isinstance(data, dict) else {}
    return mention_keys([item.get("id")], [keys.get("email")], [keys.get("external_id")], index)


def mention_keys(
    ids: Iterable[object], emails: Iterable[object], external_ids: Iterable[object], index: BlindIndex
) -> list[UUID]:
    mentions = [parse_id(value) for value in ids if isinstance(value, str)]
    mentions += [mention_email(value, index) for value in emails if isinstance(value, str)]
    mentions += [index.external_id(value) for value in external_ids if isinstance(value, str)]
    return [mention for mention in mentions if mention is not None]


def mention_email(email: str, index: BlindIndex) -> UUID | None:
    key = index_email(email, index)
    return UUID(bytes=key) if key is not None else None


def index_email(email: str, index: BlindIndex) -> bytes | None:
    """The blind index of an address in any spelling, None for text that is no address."""
    try:
        return index.email(normalise_email(email))
    except ValueError:
        return None
