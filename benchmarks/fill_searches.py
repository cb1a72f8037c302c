"""Users for searches alone: rows, and every search term that they have with SEARCH_PREFIXES, made by PostgreSQL.

Names are those of `benchmarks.people`, and of one user in 50 Han characters. Seven of ten addresses are of three
domains, the others of 20,000. Identifiers and the log are left out. Terms come first: sorting them for their index
needs as much disk as the users' rows.
"""

import asyncpg

from benchmarks.fill import CHUNK, ID, USERS, drop_indexes
from benchmarks.people import ENDS, MIDDLES, STARTS
from user_service.encryption.blind_index import BlindIndex

HAN_FAMILIES = [first + second for first in "山田中小林木佐高大石" for second in ("", "田", "本", "野")]
HAN_GIVEN = [first + second for first in "太一健美花明正和春秋" for second in "郎子夫香樹介人恵代彦"]
COMMON_DOMAINS = ("mail.example", "post.example", "web.example")
DOMAINS = 20_000
NAMES = "CREATE TEMPORARY TABLE names (kind smallint, place int, terms bigint[], PRIMARY KEY (kind, place))"
GIVEN, FAMILY, HAN, DOMAIN, SEATS = range(5)
TERMS = f"""
INSERT INTO user_terms (term, user_id)
SELECT term, {ID} FROM (
  SELECT n, hash, first.terms || last.terms || domain.terms || seats.terms || $3::bigint AS terms
  FROM (
    SELECT *, n % 50 = 7 AS han, n * 2654435761 % 4294967296 AS mixed,
      ('x' || right(hash, 8))::bit(32)::bigint AS picked
    FROM (SELECT n, md5(n::text) AS hash FROM generate_series($1::bigint, $2::bigint) AS n) AS numbers
  ) AS made
  JOIN names AS first ON first.kind = CASE WHEN han THEN {HAN} ELSE {GIVEN} END
    AND first.place = mixed % CASE WHEN han THEN {len(HAN_FAMILIES) * len(HAN_GIVEN)} ELSE 400 END
  JOIN names AS last ON last.kind = {FAMILY} AND last.place = CASE WHEN han THEN -1 ELSE mixed / 400 % 8000 END
  JOIN names AS domain ON domain.kind = {DOMAIN} AND domain.place = CASE
    WHEN picked % 10 < 4 THEN 0 WHEN picked % 10 < 6 THEN 1 WHEN picked % 10 < 7 THEN 2
    ELSE 3 + picked / 10 % {DOMAINS} END
  JOIN names AS seats ON seats.kind = {SEATS} AND seats.place = n % 50
) AS users, LATERAL (SELECT DISTINCT term FROM unnest(terms) AS term) AS own
"""


def name_terms(index: BlindIndex) -> list[tuple[int, int, list[int]]]:
    """The terms that users of a name, a domain or a metadata pair have, by their places."""
    given = [start + middle for middle in MIDDLES for start in STARTS]
    family = [start + middle + end for end in ENDS for middle in MIDDLES for start in STARTS]
    han = [(last, first) for last in HAN_FAMILIES for first in HAN_GIVEN]
    domains = [*COMMON_DOMAINS, *(f"company{number}.example" for number in range(DOMAINS))]
    rows = [(GIVEN, place, index.user_terms([name], {})) for place, name in enumerate(given)]
    rows += [(FAMILY, place, index.user_terms([name], {})) for place, name in enumerate(family)]
    rows += [(HAN, place, index.user_terms([last, first, last + first], {})) for place, (last, first) in enumerate(han)]
    rows += [(DOMAIN, place, {index.domain(domain)}) for place, domain in enumerate(domains)]
    rows += [(SEATS, number, {index.pair("seats", str(number))}) for number in range(50)]
    return [(kind, place, list(terms)) for kind, place, terms in [*rows, (FAMILY, -1, set())]]


async def fill_searches(url: str, index: BlindIndex, count: int) -> None:
    """`count` users in tables that have none. Indexes are built afterwards, and statistics gathered."""
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        await connection.execute("SET maintenance_work_mem = '1GB'; SET synchronous_commit = off")
        await connection.execute(NAMES)
        await connection.copy_records_to_table("names", records=name_terms(index))
        await connection.execute("ANALYZE names")
        await fill_table(connection, "user_terms", TERMS, count, index.pair("plan", "team"))
        await fill_table(connection, "users", USERS, count)
        await connection.execute("VACUUM ANALYZE users, user_terms")
    finally:
        await connection.close()


async def fill_table(connection: asyncpg.Connection, table: str, insert: str, count: int, *arguments: int) -> None:
    rebuild = await drop_indexes(connection, table)
    for first in range(0, count, CHUNK):
        await connection.execute(insert, first, min(first + CHUNK, count) - 1, *arguments)
    for statement in rebuild:
        await connection.execute(statement)
