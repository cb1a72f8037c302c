"""`GET /audit`: changes of all users and reads of exports, and the reasons that requests give"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, unique_email, user_url
from support.issuer import Issuer
from support.live_server import LiveServer
from support.settings import API_KEY, OTHER_API_KEY
from user_service.postgres.pool import connect_options
from user_service.security.api_keys import internal_key
from user_service.settings import Settings
from user_service.users.audit_log import ENTRY_TYPES, select_entries
from user_service.values.api_keys import SCOPES

pytestmark = pytest.mark.distributed

AUDIT = "/api/v1/audit"
OTHER_ACTOR = internal_key(OTHER_API_KEY).principal.name


async def read_all(client: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    """The entries of all pages."""
    entries: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {**parameters, **({"cursor": cursor} if cursor else {})}
        response = await client.get(AUDIT, params=query)
        assert response.status_code == 200, response.text
        entries += response.json()["items"]
        cursor = response.json()["next_cursor"]
        assert ("next" in response.links) == (cursor is not None)
    return entries


async def make_history(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Two users; the second one was made and suspended by another actor, and the first one deleted."""
    first = await make_user(client)
    other = {"X-API-Key": OTHER_API_KEY}
    second = (await client.post(USERS, json={"email": unique_email()}, headers=other)).json()
    await client.post(user_url(second, "/suspend"), headers=other)
    await client.delete(user_url(first))
    return [first, second]


async def test_changes_of_all_users_come_newest_first(client: httpx.AsyncClient) -> None:
    first, second = await make_history(client)

    for limit in (1, 2, 200):
        entries = await read_all(client, limit=limit)
        assert [(entry["user_id"], entry["type"]) for entry in entries] == [
            (first["id"], "deleted"),
            (second["id"], "status_changed"),
            (second["id"], "created"),
            (first["id"], "created"),
        ]
    trail = (await client.get(user_url(second, "/audit"))).json()["items"]
    assert [entry for entry in reversed(entries) if entry["user_id"] == second["id"]] == [
        {**change, "user_id": second["id"]} for change in trail
    ]


async def test_entries_are_found_by_actor_type_and_user(client: httpx.AsyncClient) -> None:
    first, second = await make_history(client)

    async def find(**query: str) -> list[tuple[str, int]]:
        return [(entry["user_id"], entry["version"]) for entry in await read_all(client, limit=1, **query)]

    assert await find(actor=OTHER_ACTOR) == [(second["id"], 2), (second["id"], 1)]
    assert await find(type="created") == [(second["id"], 1), (first["id"], 1)]
    assert await find(actor=OTHER_ACTOR, type="created") == [(second["id"], 1)]
    assert await find(user_id=first["id"]) == [(first["id"], 2), (first["id"], 1)]
    assert await find(user_id=first["id"], type="deleted") == [(first["id"], 2)]
    assert await find(user_id=first["id"], actor=OTHER_ACTOR) == []
    assert await find(user_id=str(uuid4())) == await find(actor="nobody") == await find(type="erased") == []


async def test_entries_are_found_by_time(client: httpx.AsyncClient) -> None:
    await make_history(client)
    times = [entry["changed_at"] for entry in await read_all(client)]

    async def find(**query: str) -> list[str]:
        return [entry["changed_at"] for entry in await read_all(client, limit=1, **query)]

    assert await find(after=times[3]) == times[:3]
    assert await find(before=times[1]) == times[2:]
    assert await find(after=times[3], before=times[0]) == times[1:3]
    assert await find(after=times[3], before=times[0], actor=OTHER_ACTOR) == times[1:3]
    assert await find(after=times[0]) == await find(before="2000-01-01T00:00:00Z") == []


async def test_the_changes_of_one_batch_share_a_time_and_are_each_on_one_page(client: httpx.AsyncClient) -> None:
    items = [{"data": {"email": unique_email()}} for _ in range(25)]
    batch = (await client.post(f"{USERS}/batch/create", json={"items": items})).json()

    entries = await read_all(client, limit=4)

    assert len({entry["changed_at"] for entry in entries}) == 1
    assert sorted(entry["user_id"] for entry in entries) == sorted(item["id"] for item in batch["items"])


async def test_reads_of_exports_are_noted(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    headers = {"X-API-Key": OTHER_API_KEY, "X-Change-Reason": "ticket 4711"}
    own = await client.get(user_url(user, "/export"), headers=headers)
    await client.get(f"{USERS}/export", headers=headers)
    again = (await client.get(user_url(user, "/export"))).json()

    many, one = await read_all(client, type="exported", actor=OTHER_ACTOR)

    assert [noted["reason"] for noted in own.json()["stored"]["exports"]] == ["ticket 4711"]
    assert many == {
        **many,
        "user_id": None,
        "version": None,
        "status": None,
        "changed": [],
        "actor": OTHER_ACTOR,
        "reason": "ticket 4711",
    }
    request = {name: one[name] for name in ("id", "request_id", "traceparent", "changed_at")}
    assert one == {**many, "user_id": user["id"]} | request
    assert one["traceparent"] == own.headers["traceparent"]
    assert [entry["type"] for entry in await read_all(client, user_id=user["id"])] == [
        "exported",
        "exported",
        "created",
    ]
    noted = [(read["actor"], read["reason"]) for read in again["stored"]["exports"]]
    assert noted == [(OTHER_ACTOR, "ticket 4711"), (internal_key(API_KEY).principal.name, None)]
    assert [change["version"] for change in again["changes"]] == [1]
    assert [item["version"] for item in (await client.get(user_url(user, "/audit"))).json()["items"]] == [1]
    assert [item["version"] for item in (await client.get(f"{USERS}/changes")).json()["items"]] == [1]


async def test_an_export_of_no_user_is_not_noted(client: httpx.AsyncClient) -> None:
    expect_problem(await client.get(f"{USERS}/{uuid4()}/export"), 404, "user_not_found")

    assert await read_all(client) == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"ticket 4711", "ticket 4711"),
        ("Löschung nach Art. 17 – 申請".encode(), "Löschung nach Art. 17 – 申請"),
        (b"  spaces  ", "spaces"),
        ("é".encode() * 200, "é" * 200),
        ("Löschung".encode("latin-1"), "Löschung"),
        (b"   ", None),
    ],
)
async def test_a_reason_is_kept_with_every_kind_of_change(
    client: httpx.AsyncClient, sent: bytes, kept: str | None
) -> None:
    client.headers = httpx.Headers([*client.headers.raw, (b"x-change-reason", sent)])
    user = await make_user(client, external_id="crm-1")
    await client.patch(user_url(user), json={"given_name": "Ada"})
    await client.put(f"{USERS}/by-external-id/crm-1", json={"email": unique_email()})
    await client.post(user_url(user, "/suspend"))
    await client.post(f"{USERS}/batch/update", json={"items": [{"id": user["id"], "data": {"locale": "fr"}}]})
    items = [{"data": {"email": unique_email()}} for _ in range(60)]
    await client.post(f"{USERS}/batch/create", json={"items": items})
    await client.post(
        f"{USERS}/imports", content=b'{"email":"i@example.org"}\n', headers={"Content-Type": "application/x-ndjson"}
    )
    await client.delete(user_url(user))

    entries = await read_all(client)

    assert len(entries) == 6 + 60 + 1
    assert {entry["reason"] for entry in entries} == {kept}
    trail = (await client.get(user_url(user, "/audit"))).json()["items"]
    assert {change["reason"] for change in trail} == {kept}


@pytest.mark.parametrize("reason", [b"x" * 201, b"a\tb", b"\xff\x85", "a\u202eb".encode(), "\x85".encode()])
async def test_a_reason_that_can_not_be_kept_is_refused_and_nothing_changes(
    client: httpx.AsyncClient, reason: bytes
) -> None:
    user = await make_user(client)
    headers = httpx.Headers([(b"x-change-reason", reason)])

    for response in (
        await client.delete(user_url(user), headers=headers),
        await client.post(f"{USERS}/batch/create", json={"items": []}, headers=headers),
        await client.get(f"{USERS}/export", headers=headers),
    ):
        expect_problem(response, 400, "invalid_header")
    assert (await client.get(user_url(user))).json() == user


async def test_an_erasure_clears_reasons_but_its_own(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    await client.patch(user_url(user), json={"locale": "fr"}, headers={"X-Change-Reason": "asked by Wilhelmina"})
    await client.get(user_url(user, "/export"), headers={"X-Change-Reason": "sent to Wilhelmina"})
    for _ in range(2):
        await client.post(user_url(user, "/erase"), headers={"X-Change-Reason": "request 12"})

    entries = await read_all(client, user_id=user["id"])

    assert [(entry["type"], entry["reason"]) for entry in entries] == [
        ("erased", "request 12"),
        ("exported", None),
        ("updated", None),
        ("created", None),
    ]


async def test_a_cursor_is_of_one_query_and_not_to_be_altered(client: httpx.AsyncClient) -> None:
    await make_history(client)
    cursor = (await client.get(AUDIT, params={"limit": 1})).json()["next_cursor"]
    listed = (await client.get(USERS, params={"limit": 1})).json()["next_cursor"]

    for query in (
        {"type": "created", "cursor": cursor},
        {"cursor": listed},
        {"cursor": cursor[:-1] + "~"},
        {"cursor": ""},
    ):
        expect_problem(await client.get(AUDIT, params=query), 400, "invalid_cursor")
    expect_problem(await client.get(USERS, params={"cursor": cursor}), 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "flown"),
        ("user_id", "ada"),
        ("after", "today"),
        ("before", "1"),
        ("limit", "0"),
        ("actor", "a" * 256),
        ("q", "x"),
    ],
)
async def test_a_wrong_parameter_is_refused(client: httpx.AsyncClient, name: str, value: str) -> None:
    expect_fault(await client.get(AUDIT, params={name: value}), f"?{name}")


async def test_hostile_actors_find_nothing(client: httpx.AsyncClient) -> None:
    await make_user(client)

    for actor in ("' OR true --", "%", "api-key:%", "", "\u202e"):
        assert await read_all(client, actor=actor) == []


def test_the_audit_needs_its_scope_and_no_other(server: LiveServer, shared_issuer: Issuer) -> None:
    statuses = []
    for scopes in (frozenset({"audit:read"}), SCOPES - {"audit:read"}):
        with server.client(Authorization=f"Bearer {shared_issuer.token(scope=' '.join(scopes))}") as client:
            statuses.append(client.get(AUDIT).status_code)

    assert statuses == [200, 403]


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A log of a year with few entries of most types, and many at the same time."""
    connection = await asyncpg.connect(**connect_options(settings))
    start = datetime.now(UTC) - timedelta(days=20)
    await connection.execute(
        "INSERT INTO user_changes (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at,"
        " event_id) SELECT gen_random_uuid(), 1, CASE i % 500 WHEN 0 THEN 'erased' ELSE 'updated' END, 'active', '{}',"
        " 'api-key:' || i % 97, 'r', 't', $1::timestamptz + i / 100 * interval '1 minute', gen_random_uuid()"
        " FROM generate_series(1, 20000) i",
        start,
    )
    await connection.execute("ANALYZE user_changes")
    yield connection
    await connection.close()


GIVEN = [(), ("cursor",), ("actor",), ("actor", "cursor"), ("after", "before"), ("actor", "after", "before", "cursor")]


@pytest.mark.one_server
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("branches", [(), ENTRY_TYPES], ids=["one server", "distributed"])
async def test_a_page_is_read_from_its_end_of_an_index(
    connection: asyncpg.Connection, given: tuple[str, ...], branches: tuple[str, ...]
) -> None:
    now = datetime.now(UTC)
    values = {
        "types": ENTRY_TYPES,
        "limit": 51,
        "actor": "api-key:3",
        "after": now - timedelta(days=20),
        "before": now,
        "at": now - timedelta(days=12),
        "id": UUID(int=2**127),
        "user_id": uuid4(),
    }
    statement = select_entries(branches, given, of_user=False)
    ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.arguments(values))

    scans = [node for node in nodes(orjson.loads(plan)[0]["Plan"]) if "Relation Name" in node]
    # Of a type with hardly a row, the planner may take either index.
    index = "actor_type_changed_at" if "actor" in given and not branches else "type_changed_at"
    assert scans
    for scan in scans:
        assert (scan["Node Type"], scan["Scan Direction"]) == ("Index Scan", "Backward")
        assert scan["Index Name"].endswith(f"_{index}_idx")
        assert ("changed_at" in scan["Index Cond"]) == bool({"cursor", "after"} & set(given))


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(inner for child in node.get("Plans", ()) for inner in nodes(child))]
