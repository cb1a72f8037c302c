"""Users to measure with: made through the service, so that they are stored as it stores them."""

from typing import Any

from benchmarks.servers import Server

USERS = "/api/v1/users"
STARTS = (
    "Ab",
    "Bre",
    "Cal",
    "Dor",
    "El",
    "Fin",
    "Gra",
    "Hel",
    "Is",
    "Jo",
    "Kar",
    "Lu",
    "Mar",
    "Nor",
    "Os",
    "Pet",
    "Ro",
    "Sal",
    "Tor",
    "Vi",
)
MIDDLES = (
    "a",
    "be",
    "den",
    "el",
    "fri",
    "ga",
    "hu",
    "in",
    "ke",
    "la",
    "mi",
    "no",
    "or",
    "pa",
    "ri",
    "se",
    "ta",
    "ul",
    "ver",
    "wi",
)
ENDS = (
    "bach",
    "croft",
    "dale",
    "er",
    "feld",
    "gren",
    "holm",
    "ing",
    "ker",
    "land",
    "man",
    "nes",
    "ov",
    "quist",
    "rud",
    "son",
    "ton",
    "um",
    "vik",
    "yer",
)


def names(number: int) -> tuple[str, str]:
    """One of 400 given and one of 8,000 family names: some come again and again, as among people."""
    mixed = number * 2_654_435_761 % 2**32
    given = STARTS[mixed % 20] + MIDDLES[mixed // 20 % 20]
    family = STARTS[mixed // 400 % 20] + MIDDLES[mixed // 8_000 % 20] + ENDS[mixed // 160_000 % 20]
    return given, family


def person(number: int, *, series: str) -> dict[str, Any]:
    """A user as a client sends it, every field filled; `series` keeps e-mails apart between uses."""
    given, family = names(number)
    return {
        "external_id": f"{series}-{number}",
        "email": f"{given}.{family}.{series}.{number}@example.org".lower(),
        "given_name": given,
        "family_name": family,
        "display_name": f"{given} {family}",
        "phone": f"+4930{number:08d}",
        "locale": "en-GB",
        "timezone": "Europe/Berlin",
        "preferences": {"theme": "dark", "newsletter": False, "items_per_page": 50},
        "metadata": {"plan": "team", "region": "eu-central", "seats": number % 50},
    }


def create_users(server: Server, count: int, *, series: str) -> dict[str, dict[str, Any]]:
    """`count` new users by id, as `GET` answers them."""
    made = {}
    with server.client() as client:
        for number in range(count):
            new = client.request("POST", USERS, expect=201, data=person(number, series=series)).json()
            user = client.get(f"{USERS}/{new['id']}").json()
            made[user["id"]] = user
    return made
