"""Two who ask for the same identifier at once: one gets it, fifty times over, and the table agrees with the users."""

import asyncio
from typing import Any

import httpx
import pytest

from support.api import USERS, make_user, unique_email, user_url
from support.batch_service import BatchService, creation, outcomes
from support.citus import CITUS_DATABASE_URL
from support.leftovers import INDEX
from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]
RACES = 50
# At once: more would wait for connections.
WIDTH = 10
# What a create is told that meets the delete of the holder. Citus commits on one server after the other, so that any
# kind may be the first that is still taken.
FIRST_TAKEN = {"email_taken", "username_taken", "external_id_taken"} if CITUS_DATABASE_URL else {"email_taken"}


async def races(run: Any) -> list[Any]:
    found = []
    for start in range(0, RACES, WIDTH):
        found += await asyncio.gather(*(run(number) for number in range(start, start + WIDTH)))
    return found


async def expect_the_table_to_agree(service: BatchService) -> None:
    """Each living user has exactly the rows of its identifiers, and no one else has any."""
    expected = set()
    cursor = None
    while True:
        params = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
        page = (await service.client.get(USERS, params=params)).json()
        for user in page["items"]:
            expected |= {(EMAIL, INDEX.email(email), user["id"]) for email in (user["email"], *user["aliases"])}
            if user["username"]:
                expected.add((USERNAME, INDEX.username(user["username"]), user["id"]))
            if user["external_id"]:
                expected.add((EXTERNAL_ID, user["external_id"].encode(), user["id"]))
        cursor = page["next_cursor"]
        if not cursor:
            break
    rows = await service.database.fetch("SELECT kind, index, user_id FROM identifiers")
    assert {(row["kind"], row["index"], str(row["user_id"])) for row in rows} == expected


def codes(*responses: httpx.Response) -> list[str]:
    return sorted("done" if response.is_success else response.json()["code"] for response in responses)


async def test_a_create_against_one_with_its_email_as_an_alias(service: BatchService) -> None:
    async def race(number: int) -> list[str]:
        email = unique_email()
        others = [unique_email() for _ in range(3)]
        first = service.client.post(USERS, json={"email": email, "aliases": others[:1]})
        second = service.client.post(USERS, json={"email": others[1], "aliases": [others[2], email.upper()]})
        return codes(*await asyncio.gather(*((first, second) if number % 2 else (second, first))))

    assert await races(race) == [["done", "email_taken"]] * RACES
    await expect_the_table_to_agree(service)


async def test_batches_that_want_each_others_emails_as_aliases(service: BatchService) -> None:
    """Both by COPY and by INSERT, with the same identifiers in any order: all end, and each address has one owner."""

    async def race(number: int) -> int:
        emails = [unique_email() for _ in range(60)]
        size = 60 if number % 2 else 20
        first = [creation(email=email) for email in emails[:size]]
        second = [creation(aliases=[email]) for email in reversed(emails[:size])]
        responses = await asyncio.gather(service.batch("create", first), service.batch("create", second))
        found = [outcome for response in responses for outcome in outcomes(response)]
        assert set(found) == {"created", "email_taken"}
        return found.count("created") - size

    for number in range(10):
        assert await race(number) == 0
    await expect_the_table_to_agree(service)


async def test_a_restore_against_a_create(service: BatchService) -> None:
    async def race(number: int) -> list[str]:
        user = await make_user(service.client, username=f"name-{number}", aliases=[unique_email()])
        await service.client.delete(user_url(user))
        wanted = {"email": user["aliases"][0]}
        if not number % 2:
            wanted = {"email": unique_email(), "username": user["username"]}
        return codes(
            *await asyncio.gather(
                service.client.post(user_url(user, "/restore")), service.client.post(USERS, json=wanted)
            )
        )

    for number, found in enumerate(await races(race)):
        assert found == ["done", "email_taken" if number % 2 else "username_taken"]
    await expect_the_table_to_agree(service)


async def test_swaps_of_usernames_in_one_batch(service: BatchService) -> None:
    """Two batches swap the same two names while a third request asks for one of them: it does not get it in between."""

    async def race(number: int) -> None:
        names = [f"left-{number}", f"right-{number}"]
        users = [await make_user(service.client, username=name) for name in names]
        swap = [{"id": user["id"], "data": {"username": name}} for user, name in zip(users, names[::-1], strict=True)]
        first, second, intruder = await asyncio.gather(
            service.batch("update", swap),
            service.batch("update", swap[::-1], mode="atomic"),
            service.client.post(USERS, json={"email": unique_email(), "username": names[number % 2].upper()}),
        )
        assert outcomes(first) == outcomes(second) == ["updated", "updated"]
        assert codes(intruder) == ["username_taken"]
        shown = [(await service.user(user["id"], **{"Cache-Control": "no-cache"}))["username"] for user in users]
        assert shown == names[::-1]

    await races(race)
    await expect_the_table_to_agree(service)


async def test_a_delete_and_a_create(service: BatchService) -> None:
    async def race(number: int) -> None:
        user = await make_user(service.client, username=f"name-{number}", external_id=f"id-{number}")
        body = {"email": user["email"], "username": user["username"], "external_id": user["external_id"]}
        deletion, creation = await asyncio.gather(
            service.client.delete(user_url(user)), service.client.post(USERS, json=body)
        )
        assert deletion.status_code == 204
        if creation.status_code != 201:
            assert codes(creation)[0] in FIRST_TAKEN
            assert (await service.client.post(USERS, json=body)).status_code == 201

    await races(race)
    await expect_the_table_to_agree(service)
