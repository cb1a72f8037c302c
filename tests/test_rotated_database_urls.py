"""DATABASE_URL and DATABASE_READ_URL that change while the service runs: users and passwords are taken over alone."""

import asyncio
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client
from support.process import command
from support.rotation import check, replica
from support.secret_files import SecretFolder
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY
from support.tokens_kept import key_ids
from support.waiting import eventually
from user_service.postgres.statements import text

FRESH = {"Cache-Control": "no-cache"}
KEYS = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "INTERNAL_API_KEY": API_KEY}


def database_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [("/kept", "/others"), ("@/", "@127.0.0.1/"), ("port=", "sslmode=disable&port=")],
    ids=["database", "host", "parameter"],
)
async def test_another_database_needs_a_rollout_and_the_former_one_stays(
    own_postgres: PostgresServer, tmp_path: Path, old: str, new: str, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = [own_postgres.create_database(name) for name in ("kept", "others")]
    for url in urls:
        await asyncio.to_thread(command, tmp_path, "migrate", DATABASE_URL=url)
    given = {"DATABASE_URL": urls[0], "DATABASE_READ_URL": urls[0]}
    secrets = SecretFolder(tmp_path / "secrets", **KEYS, **given)
    seen = []
    async with replica("", secrets) as client:
        for name, url in given.items():
            secrets.swap(**{name: url.replace(old, new)})
            seen.append(await check(client))
            await asyncio.gather(*(client.make() for _ in range(10)))
            secrets.swap(**{name: url})
            await check(client)
        used = [len(await key_ids(url)) for url in urls]

    assert seen == [{"refused": 1}, {"refused": 2}]
    assert used == [1, 0]
    assert capfd.readouterr().err.count("needs a rollout") == 2


async def test_another_database_of_the_separate_settings_needs_a_rollout(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    place = {
        "POSTGRES_HOST": str(postgres.sockets),
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": database_name(database_url),
    }
    secrets = SecretFolder(tmp_path / "secrets", **KEYS, **place)
    async with replica("", secrets) as client:
        await check(client)
        secrets.swap(POSTGRES_DB="postgres")
        outcomes = await check(client)
        await client.make()

    assert outcomes == {"refused": 1}
    assert await key_ids(database_url) == {"k1": 1}


@pytest.mark.parametrize("text", ["", "nonsense", "postgresql://postgres@h:port/x", "\0", None])
async def test_a_url_that_is_lost_or_makes_no_sense_is_refused_and_the_former_one_stays(
    database_url: str, tmp_path: Path, text: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = SecretFolder(tmp_path / "secrets", **KEYS, DATABASE_URL=database_url)
    async with replica("", secrets) as client:
        path = await client.make()
        if text is None:
            (secrets.folder / "DATABASE_URL").unlink()
        else:
            secrets.swap(DATABASE_URL=text)
        outcomes = await check(client)
        responses = [await client.get(path, headers=FRESH), await client.patch(path, json={"given_name": "Ada"})]
        await client.make()
        secrets.swap(DATABASE_URL=database_url)
        mended = await check(client)

    assert outcomes == {"refused": 1}
    assert [response.status_code for response in responses] == [200, 200]
    assert mended == {"refused": 1}
    said = capfd.readouterr().err
    assert "changed secrets are refused" in said
    assert "DATABASE_URL" in said


async def test_another_user_is_used_by_every_connection_from_then_on(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    role = f"other_{database_name(database_url)}"
    postgres.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    secrets = SecretFolder(tmp_path / "secrets", **KEYS, DATABASE_URL=database_url)
    async with replica("", secrets) as client:
        await client.make()
        secrets.swap(DATABASE_URL=database_url.replace("postgres@", f"{role}@", 1))
        outcomes = await check(client)
        ((reader,),) = await client.resources.pool.fetch("SELECT current_user")
        services = client.resources.services
        assert services is not None
        async with services.database.transaction() as session:
            writer = (await session.execute(text("SELECT current_user"))).scalar_one()
    postgres.execute(f"DROP ROLE {role}")

    assert outcomes == {"applied": 1}
    assert (reader, writer) == (role, role)


async def test_another_user_of_the_replica_is_used_by_every_connection_from_then_on(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    role = f"other_{database_name(database_url)}"
    postgres.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    urls = {"DATABASE_URL": database_url, "DATABASE_READ_URL": database_url}
    secrets = SecretFolder(tmp_path / "secrets", **KEYS, **urls)
    async with replica("", secrets) as client:
        await client.get(USERS)
        before = await read_replica_users(client)
        secrets.swap(DATABASE_READ_URL=database_url.replace("postgres@", f"{role}@", 1))
        outcomes = await check(client)
        after = await read_replica_users(client)
    postgres.execute(f"DROP ROLE {role}")

    assert outcomes == {"applied": 1}
    assert (before, after) == ({"postgres"}, {role})


async def read_replica_users(client: Client) -> set[str]:
    """The users of two connections to the replica."""
    services = client.resources.services
    assert services is not None
    database = services.database.replica
    assert database is not None
    async with database.session() as one, database.session() as other:
        return {(await session.execute(text("SELECT current_user"))).scalar_one() for session in (one, other)}


async def test_a_database_password_is_used_for_new_connections_once_it_works(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    own_postgres.execute("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'first-of-its-passwords'")
    url = own_postgres.create_database("kept")
    await asyncio.to_thread(command, tmp_path, "migrate", DATABASE_URL=url)
    rules = own_postgres.cluster.folder / "pg_hba.conf"
    rules.write_text(f"local all keeper scram-sha-256\n{rules.read_text()}")
    own_postgres.execute("SELECT pg_reload_conf()")
    secrets = SecretFolder(
        tmp_path / "secrets",
        **KEYS,
        POSTGRES_USER_PASSWORD="first-of-its-passwords",
    )
    place = {"POSTGRES_HOST": str(own_postgres.sockets), "POSTGRES_DB": "kept", "POSTGRES_USER": "keeper"}
    async with replica("", secrets, **place) as client:
        path = await client.make()
        secrets.swap(POSTGRES_USER_PASSWORD="second-of-its-passwords")
        early = await check(client)
        still = await client.get(path, headers=FRESH)
        own_postgres.execute("ALTER ROLE keeper PASSWORD 'second-of-its-passwords'")
        late = await check(client)
        own_postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'")
        read = await client.get(path, headers=FRESH)

        async def can_write() -> bool:
            """A write does not try again by itself where its connection turns out to be dead."""
            return (await client.patch(path, json={"given_name": "Ada"})).status_code == 200

        await eventually(can_write)

    assert early == {"deferred": 1}
    assert still.status_code == 200
    assert late == {"deferred": 1, "applied": 1}
    assert read.status_code == 200
