"""Whether the keys are the ones that the database was written with; asked before anything is written, and again."""

from collections.abc import Mapping, Sequence

import asyncpg

from user_service.encryption.keyring import Keyring, fingerprint_of
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.postgres.migrations import head
from user_service.postgres.pool import ReadPool

READ = "SELECT name, value FROM service_meta"
REVISION = "SELECT version_num FROM alembic_version"
REGISTER = "INSERT INTO service_meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"
NOT_MIGRATED = "The database is not migrated yet; run `user-service migrate`."
BLIND_INDEX = "blind-index-key"
ENCRYPTION = "encryption-key:"
# Keys that nothing may be sealed under any more, and since when, in seconds since 1970.
RETIRED = "retired-key:"
RETIRE = (
    "INSERT INTO service_meta (name, value) SELECT name, floor(extract(epoch FROM clock_timestamp()))::bigint::text"
    " FROM unnest($1::text[]) AS name ON CONFLICT DO NOTHING"
)
# Of the keys whose fingerprints are still there; a second counts once it is over.
RETIRED_FOR = (
    "SELECT extract(epoch FROM clock_timestamp()) - max(retired.value::bigint) - 1 FROM service_meta AS retired"
    " JOIN service_meta AS sealed ON sealed.name = $2::text || substr(retired.name, 1 + length($1::text))"
    " WHERE starts_with(retired.name, $1::text)"
)
FORGET = "DELETE FROM service_meta WHERE name = $1"


class KeysRetired(ConfigurationError):
    """Every key of the ring has been retired: nothing may be sealed."""


class Retirement:
    """The end of former keys. From `retire` on, replicas stop sealing under them as soon as they look, which takes
    them `seconds` at most, with all that is under way.
    """

    def __init__(self, pool: ReadPool, keys: Keyring, *, seconds: float) -> None:
        self.pool = pool
        self.keys = keys
        self.seconds = seconds

    async def retire(self, *, go_back: bool) -> None:
        """Retires every key that has sealed but the first of the ring, which seals from here on.

        Raises ConfigurationError when the keys are wrong, or the first was retired itself, unless it is to `go_back`.
        """
        await compare_keys(self.pool, self.keys)
        first = next(iter(self.keys.ring))
        if RETIRED + first in await read_registered(self.pool):
            if not go_back:
                raise ConfigurationError(
                    f"ENCRYPTION_KEY: the first key, {first!r}, was retired by an earlier `user-service reencrypt`. "
                    "Put the key first that came after it; or add --go-back to seal under the former one again."
                )
            await self.pool.fetch(FORGET, RETIRED + first)
        await check_keys(self.pool, self.keys)
        sealed = [
            name.removeprefix(ENCRYPTION) for name in await read_registered(self.pool) if name.startswith(ENCRYPTION)
        ]
        former = [key_id for key_id in sealed if key_id != first]
        await self.pool.fetch(RETIRE, [RETIRED + key_id for key_id in former])

    async def retired(self) -> list[str]:
        """The ids of all keys that were retired, some of them long ago."""
        names = await read_registered(self.pool)
        return [name.removeprefix(RETIRED) for name in names if name.startswith(RETIRED)]

    async def remaining_seconds(self) -> float:
        """How long somebody may still write under a key that was retired."""
        (row,) = await self.pool.fetch(RETIRED_FOR, RETIRED, ENCRYPTION)
        return self.seconds - float(row[0]) if row[0] is not None else 0.0

    async def end(self, key_ids: Sequence[str]) -> None:
        """Forgets the fingerprints of keys that nothing is sealed under: they need not be in the ring from here on."""
        for key_id in key_ids:
            await self.pool.fetch(FORGET, ENCRYPTION + key_id)


async def check_keys(pool: ReadPool, keys: Keyring) -> None:
    """Like compare_keys; but registers the key that seals and that of the blind index, if they are not, before."""
    registered = await read_registered(pool)
    compare(registered, keys)
    mine = {BLIND_INDEX: fingerprint_of(keys.blind_index), **named(keys.fingerprints)}
    # The blind index key goes first, and alone: of two first starts with different keys, one registers nothing.
    for name in (BLIND_INDEX, ENCRYPTION + sealing_of(registered, keys)):
        if name not in registered:
            await pool.fetch(REGISTER, name, mine[name])
            registered = await read_registered(pool)
            compare(registered, keys)
    settle(registered, keys)


async def compare_keys(pool: ReadPool, keys: Keyring) -> None:
    """Compares the keys with those that the database was written with, and settles which of them are used.

    Raises ConfigurationError with the remedy when they don't fit, and DatabaseUnavailable when the tables are not
    there yet.
    """
    registered = await read_registered(pool)
    compare(registered, keys)
    settle(registered, keys)


def settle(registered: Mapping[str, str], keys: Keyring) -> None:
    """Has the keys used that the database is written with."""
    first = fingerprint_of(keys.blind_index)
    blind_index = keys.blind_index_keys[registered.get(BLIND_INDEX, first)]
    keys.settle(blind_index=blind_index, active_id=sealing_of(registered, keys))


def named(fingerprints: Mapping[str, str]) -> dict[str, str]:
    return {ENCRYPTION + key_id: fingerprint for key_id, fingerprint in fingerprints.items()}


def sealing_of(registered: Mapping[str, str], keys: Keyring) -> str:
    """The id of the first key of the ring that `user-service reencrypt` has not retired. Raises KeysRetired."""
    for key_id in keys.ring:
        if RETIRED + key_id not in registered:
            return key_id
    raise KeysRetired(
        f"ENCRYPTION_KEY: the key {next(iter(keys.ring))!r} was retired by `user-service reencrypt`, and no other is "
        "there to seal with. Add the one that came after it."
    )


async def read_registered(pool: ReadPool) -> dict[str, str]:
    try:
        revisions = await pool.fetch(REVISION)
        if not revisions or revisions[0][0] < head():
            raise DatabaseUnavailable(NOT_MIGRATED)
        return dict(await pool.fetch(READ))
    except asyncpg.UndefinedTableError:
        raise DatabaseUnavailable(NOT_MIGRATED) from None


def compare(registered: Mapping[str, str], keys: Keyring) -> None:
    if BLIND_INDEX in registered and registered[BLIND_INDEX] not in keys.blind_index_keys:
        raise ConfigurationError(
            "The blind index key is not the one that this database was written with: users could not be found by "
            "e-mail. Set BLIND_INDEX_KEY to the first one. Where it was derived, that is what `user-service keys "
            "blind-index` prints with the former ENCRYPTION_KEY; or put the key back that is missing there."
        )
    sealing_of(registered, keys)
    mine = named(keys.fingerprints)
    for name, value in registered.items():
        if not name.startswith(ENCRYPTION) or mine.get(name) == value:
            continue
        key_id = name.removeprefix(ENCRYPTION)
        problem = "is another key than the one" if name in mine else "is missing, and is one"
        raise ConfigurationError(
            f"ENCRYPTION_KEY: the key {key_id!r} {problem} that sealed personal data in this database. "
            "Put the original back: first to go on with it, or after the new one to rotate. "
            "`user-service reencrypt` makes it needless."
        )
