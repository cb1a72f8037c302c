"""What a database was written with: the fingerprints of keys, the keys that were retired, the kinds of search terms.

A process compares its keys with them before it writes, and repeatedly afterwards.
"""

from collections.abc import Mapping, Sequence

from user_service.encryption.keyring import Keyring, fingerprint
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.postgres.failures import NOT_MIGRATED
from user_service.postgres.migrations import head
from user_service.postgres.pool import ReadPool

SELECT_REGISTERED = "SELECT name, value FROM service_meta"
SELECT_REVISION = "SELECT version_num FROM alembic_version"
REGISTER = "INSERT INTO service_meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"
UNREGISTER = "DELETE FROM service_meta WHERE name = $1"
# Names in service_meta; the last two end with a key id. The value of a retired key is the time of its retirement, in
# seconds since 1970.
BLIND_INDEX = "blind-index-key"
ENCRYPTION = "encryption-key:"
RETIRED = "retired-key:"
# There if all users have terms of the beginnings of their words; see users/reindexing.py.
PREFIXES = "search-prefixes"
# Citus reads no rows without columns from a distributed table.
MARK_WITHOUT_USERS = (
    "INSERT INTO service_meta (name, value) SELECT $1, 'true' WHERE NOT EXISTS (SELECT 1 FROM users)"
    " ON CONFLICT DO NOTHING"
)
RETIRE = (
    "INSERT INTO service_meta (name, value) SELECT name, floor(extract(epoch FROM clock_timestamp()))::bigint::text"
    " FROM unnest($1::text[]) AS name ON CONFLICT DO NOTHING"
)
# Seconds since the last retirement of a key whose fingerprint is still registered. Times are whole seconds: one second
# is subtracted, so that the result is never too high.
SECONDS_SINCE_RETIREMENT = (
    "SELECT extract(epoch FROM clock_timestamp()) - max(retired.value::bigint) - 1 FROM service_meta AS retired"
    " JOIN service_meta AS sealed ON sealed.name = $2::text || substr(retired.name, 1 + length($1::text))"
    " WHERE starts_with(retired.name, $1::text)"
)


class KeysRetired(ConfigurationError):
    """Every key of the ring is retired, so none may seal."""


class Retirement:
    """The retirement of former keys. Replicas stop sealing under a retired key when they next read the registry; all
    have done so, and have ended their current requests, after `seconds`.
    """

    def __init__(self, pool: ReadPool, keys: Keyring, *, seconds: float) -> None:
        self.pool = pool
        self.keys = keys
        self.seconds = seconds

    async def retire(self, *, go_back: bool) -> None:
        """Retires every key that has sealed data except the first of the ring, which seals from now on.

        `go_back` permits a first key that is retired itself. Raises ConfigurationError for such a key without
        `go_back`, and for wrong keys.
        """
        await compare_keys(self.pool, self.keys)
        first = next(iter(self.keys.ring))
        if RETIRED + first in await read_registered(self.pool):
            if not go_back:
                raise ConfigurationError(
                    f"ENCRYPTION_KEY: the first key, {first!r}, was retired by an earlier `user-service reencrypt`. "
                    "Put the key that replaced it first; or add --go-back to seal under the former key again."
                )
            await self.pool.fetch(UNREGISTER, RETIRED + first)
        await check_keys(self.pool, self.keys)
        former = [key_id for key_id in key_ids(await read_registered(self.pool), ENCRYPTION) if key_id != first]
        await self.pool.fetch(RETIRE, [RETIRED + key_id for key_id in former])

    async def retired(self) -> list[str]:
        """The ids of all retired keys, from earlier runs too."""
        return key_ids(await read_registered(self.pool), RETIRED)

    async def remaining_seconds(self) -> float:
        """How long a replica may still write under a retired key; 0 or less if none does."""
        (row,) = await self.pool.fetch(SECONDS_SINCE_RETIREMENT, RETIRED, ENCRYPTION)
        return self.seconds - float(row[0]) if row[0] is not None else 0.0

    async def end(self, ids: Sequence[str]) -> None:
        """Removes the fingerprints of keys that nothing is sealed under. The ring needs these keys no longer."""
        for key_id in ids:
            await self.pool.fetch(UNREGISTER, ENCRYPTION + key_id)


async def check_keys(pool: ReadPool, keys: Keyring, *, stores_prefixes: bool = False) -> None:
    """Like `compare_keys`, and registers the blind index key and the active key if they are not registered.

    With `stores_prefixes`, a database without users needs no reindex for queries to find the beginnings of words.
    """
    registered = await read_registered(pool)
    reject_wrong_keys(registered, keys)
    fingerprints = {BLIND_INDEX: fingerprint(keys.blind_index), **encryption_fingerprints(keys)}
    # The blind index key is registered first, and alone: of two concurrent first starts with different keys, one
    # registers nothing.
    for name in (BLIND_INDEX, ENCRYPTION + active_key_id(registered, keys)):
        if name not in registered:
            await pool.fetch(REGISTER, name, fingerprints[name])
            registered = await read_registered(pool)
            reject_wrong_keys(registered, keys)
    if stores_prefixes and PREFIXES not in registered:
        await pool.fetch(MARK_WITHOUT_USERS, PREFIXES)
        registered = await read_registered(pool)
    activate_keys(registered, keys)


async def compare_keys(pool: ReadPool, keys: Keyring) -> None:
    """Compares the keys with those that the database was written with, and activates the ones to use.

    Raises ConfigurationError with the remedy if they differ, and DatabaseUnavailable if the tables do not exist yet.
    """
    registered = await read_registered(pool)
    reject_wrong_keys(registered, keys)
    activate_keys(registered, keys)


def activate_keys(registered: Mapping[str, str], keys: Keyring) -> None:
    new_database_key = fingerprint(keys.blind_index)
    blind_index = keys.blind_index_keys[registered.get(BLIND_INDEX, new_database_key)]
    keys.activate(blind_index=blind_index, active_id=active_key_id(registered, keys))
    keys.has_prefixes = PREFIXES in registered


def encryption_fingerprints(keys: Keyring) -> dict[str, str]:
    return {ENCRYPTION + key_id: value for key_id, value in keys.fingerprints.items()}


def key_ids(registered: Mapping[str, str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in registered if name.startswith(prefix)]


def active_key_id(registered: Mapping[str, str], keys: Keyring) -> str:
    """The id of the first key of the ring that is not retired. Raises KeysRetired."""
    for key_id in keys.ring:
        if RETIRED + key_id not in registered:
            return key_id
    raise KeysRetired(
        f"ENCRYPTION_KEY: the key {next(iter(keys.ring))!r} was retired by `user-service reencrypt`, and there is no "
        "other key to seal with. Add the key that replaced it."
    )


async def read_registered(pool: ReadPool) -> dict[str, str]:
    """The rows of service_meta. Raises DatabaseUnavailable, also if the database is not migrated."""
    revisions = await pool.fetch(SELECT_REVISION)
    if not revisions or revisions[0][0] < head():
        raise DatabaseUnavailable(NOT_MIGRATED)
    return dict(await pool.fetch(SELECT_REGISTERED))


def reject_wrong_keys(registered: Mapping[str, str], keys: Keyring) -> None:
    """Raises ConfigurationError if the keys are not those that the database was written with."""
    if BLIND_INDEX in registered and registered[BLIND_INDEX] not in keys.blind_index_keys:
        raise ConfigurationError(
            "The blind index key is not the one that this database was written with: users could not be found by "
            "e-mail. Set BLIND_INDEX_KEY to the original key. If it was derived, `user-service keys blind-index` with "
            "the former ENCRYPTION_KEY prints it. Or restore the missing key in ENCRYPTION_KEY."
        )
    active_key_id(registered, keys)
    fingerprints = encryption_fingerprints(keys)
    for name, value in registered.items():
        if not name.startswith(ENCRYPTION) or fingerprints.get(name) == value:
            continue
        key_id = name.removeprefix(ENCRYPTION)
        problem = "is not the one" if name in fingerprints else "is missing, and it is the one"
        raise ConfigurationError(
            f"ENCRYPTION_KEY: the key {key_id!r} {problem} that sealed personal data in this database. "
            "Restore the original key: first to continue with it, or after the new key to rotate. "
            "After `user-service reencrypt` it is not needed."
        )
