"""Whatever reads a body takes UTF-8 alone, and says so for any other charset"""

from collections.abc import Mapping
from typing import Final
from uuid import uuid4

import httpx
import orjson
import pytest

from support.api import USERS, expect_problem, unique_email

EVENT: Final = {"specversion": "1.0", "source": "/tests", "type": "org.userservice.batch.create.v1"}
NDJSON: Final = "application/x-ndjson"


def make_request(place: str) -> tuple[str, str, bytes, Mapping[str, str]]:
    """The path, media type, body and further headers of a request that creates a user at this place."""
    user = {"email": unique_email()}
    batch = {"items": [{"data": user}]}
    event = {**EVENT, "id": uuid4().hex}
    binary = {f"ce-{name}": value for name, value in event.items()}
    return {
        "one user": (USERS, "application/json", orjson.dumps(user), {}),
        "a batch": (f"{USERS}/batch/create", "application/json", orjson.dumps(batch), {}),
        "a find": (f"{USERS}/batch/find", "application/json", orjson.dumps({"emails": [user["email"]]}), {}),
        "a structured event": ("/events", "application/cloudevents+json", orjson.dumps({**event, "data": batch}), {}),
        "events": ("/events", "application/cloudevents-batch+json", orjson.dumps([{**event, "data": batch}]), {}),
        "a binary event": ("/events", "application/json", orjson.dumps(batch), binary),
        "NDJSON": (f"{USERS}/imports", NDJSON, orjson.dumps(user), {}),
        "CSV": (f"{USERS}/imports", "text/csv", f"email\n{user['email']}\n".encode(), {}),
    }[place]


PLACES: Final = ("one user", "a batch", "a find", "a structured event", "events", "a binary event", "NDJSON", "CSV")


async def send(client: httpx.AsyncClient, place: str, parameters: str) -> httpx.Response:
    path, media_type, body, headers = make_request(place)
    return await client.post(path, content=body, headers={**headers, "Content-Type": media_type + parameters})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "parameters",
    [
        "; charset=latin1",
        ";charset=windows-1252; header=present",
        '; CHARSET="UTF-16"',
        "; charset='iso-8859-1'",
        "; charset=utf-8; charset=latin1",
    ],
)
async def test_another_charset_is_refused_by_name(
    shared_client: httpx.AsyncClient, place: str, parameters: str
) -> None:
    problem = expect_problem(await send(shared_client, place, parameters), 415, "unsupported_media_type")

    assert "send charset=utf-8 or no charset" in problem["detail"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "parameters",
    [
        *("", ";", "; charset=utf-8", ';charset="UTF-8"', "; Charset='utf-8' ;", r'; charset="utf\-8"', "; charset="),
        *("; charset=utf8", "; charset=us-ascii", "; header=present"),
    ],
)
async def test_every_spelling_of_utf8_is_taken(shared_client: httpx.AsyncClient, place: str, parameters: str) -> None:
    response = await send(shared_client, place, parameters)

    assert response.status_code in {200, 201, 202}, response.text


@pytest.mark.parametrize("place", ["one user", "a batch", "a structured event", "NDJSON", "CSV"])
async def test_two_content_types_are_none(shared_client: httpx.AsyncClient, place: str) -> None:
    path, media_type, body, _ = make_request(place)
    for other in ("text/plain", "text/csv" if media_type != "text/csv" else NDJSON):
        for lines in ([media_type, other], [other, media_type]):
            headers = [("Content-Type", value) for value in lines]

            expect_problem(await shared_client.post(path, content=body, headers=headers), 415, "unsupported_media_type")
