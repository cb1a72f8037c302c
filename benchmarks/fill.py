"""Any number of users made by PostgreSQL itself: the rows, index entries and log that the service would have left.

Terms and metadata are those of `people.person`, under the index key of the run, so that searches find what they should.
`personal` has the size of a sealed blob and opens under no key: such users can be searched and counted, not read.
"""

from collections.abc import Iterable

import asyncpg

from benchmarks.people import ENDS, MIDDLES, STARTS
from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, BlindIndex
from user_service.values.name_words import split_words

# A millisecond apart, from this moment on; far enough in the past for 10 million users.
FIRST_MILLISECOND = 1_700_000_000_000
SEALED_BYTES = 272
CHUNK = 500_000

ID = (
    f"(lpad(to_hex({FIRST_MILLISECOND} + n), 12, '0')"
    " || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 3) || substr(hash, 7, 12))::uuid"
)
USERS = f"""
INSERT INTO users (id, external_id, phone_index, personal, email_verified, locale, timezone, status, metadata, version,
  created_at, updated_at, deleted_at, prior_status)
SELECT {ID}, 'list-' || n, ('x' || substr(md5('phone' || n), 1, 16))::bit(64)::bigint,
  decode(repeat(hash, {SEALED_BYTES // 16}), 'hex'), n % 2 = 0, 'en-GB', 'Europe/Berlin', status,
  jsonb_build_object('plan', 'team', 'region', 'eu-central', 'seats', n % 50), 1, made, made,
  CASE status WHEN 'deleted' THEN made END, CASE status WHEN 'deleted' THEN 'active' END
FROM (SELECT n, md5(n::text) AS hash, to_timestamp(({FIRST_MILLISECOND} + n) / 1000.0) AS made,
  CASE WHEN n % 20 = 0 THEN 'suspended' WHEN n % 20 = 1 THEN 'deleted' ELSE 'active' END AS status
  FROM generate_series($1::bigint, $2::bigint) AS n) AS made
"""
# Random indexes of e-mail addresses, as those of phone numbers are: only the service can compute one.
IDENTIFIERS = f"""
INSERT INTO identifiers (kind, index, user_id)
SELECT kind, CASE kind WHEN {EMAIL} THEN decode(md5('email' || n), 'hex') ELSE convert_to('list-' || n, 'UTF8') END,
  {ID}
FROM (SELECT n, md5(n::text) AS hash FROM generate_series($1::bigint, $2::bigint) AS n WHERE n % 20 <> 1) AS made,
  unnest(ARRAY[{EMAIL}, {EXTERNAL_ID}]) AS kind
"""
TERMS = f"""
INSERT INTO user_terms (term, user_id)
SELECT term, {ID}
FROM (SELECT n, md5(n::text) AS hash, n * 2654435761 % 4294967296 AS mixed
  FROM generate_series($1::bigint, $2::bigint) AS n) AS made,
  LATERAL (SELECT DISTINCT term FROM unnest($3::bigint[] || ARRAY[($4::bigint[])[mixed % 400 + 1],
    ($5::bigint[])[mixed / 400 % 8000 + 1], ($6::bigint[])[n % 50 + 1]]) AS term) AS own
"""
CHANGES = f"""
INSERT INTO user_changes
  (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at, event_id)
SELECT {ID}, 1, 'created', 'active', '{{external_id,email,given_name,family_name,phone}}',
  'api-key', 'fill', '', now(), gen_random_uuid()
FROM (SELECT n, md5(n::text) AS hash FROM generate_series($1::bigint, $2::bigint) AS n) AS made
"""


def word_terms(index: BlindIndex, names: Iterable[str]) -> list[int]:
    return [index.word(word) for name in names for word in split_words(name)]


async def fill(url: str, index: BlindIndex, count: int) -> None:
    """`count` users in tables that have none. Indexes are built afterwards, and statistics gathered."""
    given = [start + middle for middle in MIDDLES for start in STARTS]
    family = [start + middle + end for end in ENDS for middle in MIDDLES for start in STARTS]
    common = [index.pair("plan", "team"), index.pair("region", "eu-central")]
    seats = [index.pair("seats", str(number)) for number in range(50)]
    terms = (common, word_terms(index, given), word_terms(index, family), seats)
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        await connection.execute("SET maintenance_work_mem = '1GB'; SET synchronous_commit = off")
        rebuild = await drop_indexes(connection, "users", "identifiers", "user_terms", "user_changes")
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count) - 1
            await connection.execute(USERS, first, last)
            await connection.execute(IDENTIFIERS, first, last)
            await connection.execute(TERMS, first, last, *terms)
            await connection.execute(CHANGES, first, last)
        for statement in rebuild:
            await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def drop_indexes(connection: asyncpg.Connection, *relations: str) -> list[str]:
    """Drops what costs most to keep while rows come in; returns the statements that bring it back."""
    rows = await connection.fetch(
        "SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS relation, c.conname AS key,"
        " pg_get_constraintdef(c.oid) AS definition, pg_get_indexdef(i.indexrelid) AS index"
        " FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid"
        " WHERE i.indrelid = ANY($1::text[]::regclass[])",
        relations,
    )
    rebuild = []
    for row in rows:
        if row["key"] is None:
            await connection.execute(f"DROP INDEX {row['name']}")
            # An index of ONLY the partitioned table would have none on its partitions.
            rebuild.append(row["index"].replace(" ON ONLY ", " ON "))
        else:
            await connection.execute(f"ALTER TABLE {row['relation']} DROP CONSTRAINT {row['key']}")
            rebuild.append(f"ALTER TABLE {row['relation']} ADD CONSTRAINT {row['key']} {row['definition']}")
    return rebuild
