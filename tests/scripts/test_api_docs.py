"""docs/api.md is true to the OpenAPI document"""

import re
from pathlib import Path

import httpx

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")


async def test_every_operation_stands_in_the_text(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()

    for path, methods in document["paths"].items():
        for method in methods:
            assert stands_there(method.upper(), path.replace("{user_id}", "{id}")), f"{method} {path}"


def stands_there(method: str, path: str) -> bool:
    short = path.removeprefix("/api/v1/users/{id}")
    if re.fullmatch(r"/api/v1/users/batch/\w+", path):
        place, _, verb = path.rpartition("/")
        return bool(re.search(rf"`{method} {place}/\{{[\w,]*\b{verb}\b[\w,]*\}}`", TEXT))
    return f"`{method} {path}" in TEXT or (short != path and f"`{short}`" in TEXT)


async def test_every_field_and_every_parameter_stands_in_the_text(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    fields = set(document["components"]["schemas"]["UserRead"]["properties"])
    parameters = {parameter["name"] for parameter in document["paths"]["/api/v1/users"]["get"]["parameters"]}

    assert {name for name in fields | parameters if not re.search(rf"`{name}[`=]", TEXT)} == set()


async def test_every_parameter_in_the_text_exists(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    table = TEXT.partition("## Many users")[2].partition("Filters narrow")[0]
    cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)(?=[`=])", cell)}

    parameters = {parameter["name"] for parameter in document["paths"]["/api/v1/users"]["get"]["parameters"]}
    assert "`metadata.<key>=<value>`" in table
    assert named == parameters - {"metadata.<key>"}


async def test_the_paths_without_credentials_are_the_ones_in_the_text(shared_client: httpx.AsyncClient) -> None:
    sentence = re.findall(r"These paths need no credentials: (.*?)\.\n", TEXT, re.DOTALL)[0]
    open_paths = set(re.findall(r"`(/[\w/.]*)`", sentence))
    document = (await shared_client.get("/openapi.json")).json()

    async def status_without_key(method: str, path: str) -> int:
        request = shared_client.build_request(method, path)
        del request.headers["X-API-Key"]
        return (await shared_client.send(request)).status_code

    for path in open_paths:
        assert await status_without_key("GET", path) == 200, path
    for path, methods in document["paths"].items():
        for method in methods if path not in open_paths else ():
            assert await status_without_key(method, path) == 401, f"{method} {path}"
