"""Personal data stays where it belongs: not in the database's clear text, errors, headers or logs"""

import base64
import re
from typing import Any

import asyncpg
import httpx
import pytest

from support.api import USERS, user_url
from support.process import ServiceProcess
from support.settings import API_KEY, ENCRYPTION_KEY

PERSONAL = {
    "email": "Xylophon.Quetzal@Jabberwock.example",
    "aliases": ["galumph@brillig.example", "Mome.Rath@outgrabe.example"],
    "username": "Bandersnatchi",
    "given_name": "Xylophonquintessenz",
    "family_name": "Quetzalcoatl",
    "display_name": "Vorpalschwert",
    "phone": "+449876512345",
    "preferences": {"diagnosis": "Snickersnack"},
}
TRACES = (
    "xylophon.quetzal",
    "jabberwock.example",
    "brillig.example",
    "mome.rath",
    "bandersnatchi",
    "xylophonquintessenz",
    "quetzalcoatl",
    "vorpalschwert",
    "9876512345",
    "snickersnack",
)


def traces_in(content: bytes) -> list[str]:
    """Which of the personal values show, as text of any case, in UTF-16, base64 or hexadecimal."""
    low = content.lower()
    found = []
    for trace in TRACES:
        forms = [trace.encode(), trace.encode("utf-16-le"), trace.encode().hex().encode()]
        forms += [base64.b64encode(b"x" * shift + trace.encode())[4:-4].lower() for shift in range(3)]
        found += [trace for form in forms if form in low]
    return found


async def dump(url: str) -> bytes:
    """The rows of every table, as COPY writes them."""
    connection = await asyncpg.connect(url)
    parts: list[bytes] = []

    async def keep(data: bytes) -> None:
        parts.append(data)

    try:
        for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            await connection.copy_from_query(f"SELECT * FROM {row['tablename']}", output=keep)
            await connection.copy_from_query(f"SELECT * FROM {row['tablename']}", output=keep, format="binary")
    finally:
        await connection.close()
    return b"".join(parts)


async def live_a_little(client: httpx.AsyncClient) -> dict[str, Any]:
    """Every kind of write on one user, and refusals that have the personal values in their requests."""
    user: dict[str, Any] = (await client.post(USERS, json={**PERSONAL, "external_id": "crm-1"})).json()
    assert user["version"] == 1
    for verb in ("suspend", "activate", "login"):
        assert (await client.post(user_url(user, f"/{verb}"))).is_success
    patch = {"given_name": "XylophonquintessenzX", "preferences": {"more": "Snickersnack!"}}
    assert (await client.patch(user_url(user), json=patch)).is_success
    assert (await client.delete(user_url(user))).is_success
    assert (await client.post(user_url(user, "/restore"))).is_success
    return user


async def refusals(client: httpx.AsyncClient, user: dict[str, Any]) -> list[httpx.Response]:
    wrong = {
        "email": "Xylophon.Quetzal@@Jabberwock.example",
        "given_name": "Xylophonquintessenz\0",
        "phone": "9876512345",
        "locale": "quetzalcoatl!",
        "timezone": "Jabberwock.example",
        "status": "vorpalschwert",
        "preferences": "Snickersnack",
        "metadata": {"n": ["Vorpalschwert"]},
    }
    broken = b'{"email": "xylophon@jabberwock.example", "given_name": "Vorpalschwert'
    return [
        await client.post(USERS, json=PERSONAL),
        await client.post(USERS, json=wrong),
        await client.patch(user_url(user), json=wrong),
        await client.patch(user_url(user), json=PERSONAL, headers={"If-Match": '"99"'}),
        await client.post(USERS, content=broken, headers={"Content-Type": "application/json"}),
        await client.post(USERS, content=broken, headers={"Content-Type": "text/vorpalschwert"}),
        await client.get(
            USERS, params={"email": "xylophon.quetzal@", "q": "vorpalschwert" * 50, "cursor": "snickersnack"}
        ),
        await client.get(USERS, params={"created_after": "jabberwock.example", "limit": "9876512345"}),
        await client.get(f"{USERS}/quetzalcoatl"),
        await client.get("/api/v1/jabberwock.example"),
    ]


async def test_a_dump_of_the_database_shows_none(client: httpx.AsyncClient, database_url: str) -> None:
    user = await live_a_little(client)

    content = await dump(database_url)

    assert user["id"].encode() in content
    assert b"crm-1" in content
    assert traces_in(content) == []


async def test_an_error_shows_none(client: httpx.AsyncClient) -> None:
    user = await live_a_little(client)

    for response in await refusals(client, user):
        assert response.is_client_error
        assert traces_in(response.content) == []
        assert traces_in(repr(response.headers.raw).encode()) == []


def test_the_search_for_traces_finds_them() -> None:
    phone = base64.b64encode(b"tel:+449876512345;")
    for content in ("XYLOPHON.QUETZAL", "Quetzalcoatl".encode("utf-16-le"), phone, b"vorpalschwert".hex()):
        assert traces_in(content if isinstance(content, bytes) else content.encode())


async def test_no_log_line_shows_any_nor_a_key(service_process: ServiceProcess) -> None:
    async with service_process.async_client() as client:
        user = await live_a_little(client)
        for response in await refusals(client, user):
            assert response.is_client_error
        assert (await client.get(USERS, params={"email": PERSONAL["email"], "q": "vorpalschwert"})).is_success
        refused = await client.get(user_url(user), headers={"X-API-Key": API_KEY + "x"})
        metrics = await client.get("/metrics")

    assert service_process.stop() == 0
    log = service_process.log.read_bytes()
    assert refused.status_code == 401
    assert len(re.findall(rb'"logger":"access"', log)) > 15
    assert traces_in(log) == traces_in(metrics.content) == []
    for secret in (API_KEY, ENCRYPTION_KEY.partition(":")[2]):
        assert secret.encode() not in log
        assert secret not in metrics.text


async def test_a_row_that_does_not_open_is_an_error_that_shows_nothing(
    client: httpx.AsyncClient, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = await live_a_little(client)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE users SET personal = set_byte(personal, 40, 255 - get_byte(personal, 40))")
    await connection.close()

    for response in (
        await client.get(user_url(user), headers={"Cache-Control": "no-cache"}),
        await client.get(USERS),
        await client.patch(user_url(user), json={"given_name": "Vorpalschwert"}),
    ):
        assert (response.status_code, response.json()["code"]) == (500, "internal_error")
        assert traces_in(response.content) == []
    assert traces_in(caplog.text.encode()) == []
