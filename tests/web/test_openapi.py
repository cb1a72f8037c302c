"""The OpenAPI document and the service say the same"""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.application import Client
from support.process import ServiceProcess
from support.settings import API_KEY
from user_service.errors import ServiceError
from user_service.web.openapi import CODES

FOLDER = Path(__file__).parents[1] / "support/openapi"


def test_every_operation_answers_made_up_requests_as_the_document_says(
    service_process: ServiceProcess, tmp_path: Path
) -> None:
    """Right and wrong requests of every operation, a fixed number, made by schemathesis; see schemathesis.toml."""
    program = Path(sys.executable).with_name("schemathesis")
    config = ["--config-file", str(FOLDER / "schemathesis.toml")]
    target = [
        "run",
        f"{service_process.url}/openapi.json",
        "--header",
        f"X-API-Key: {API_KEY}",
        "--continue-on-failure",
    ]

    result = subprocess.run(
        [program, "--no-color", *config, *target],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    tested = re.search(r"Tested: (\d+)\n", result.stdout)
    assert tested
    assert int(tested[1]) == len(operations(httpx.get(f"{service_process.url}/openapi.json").json()))


def operations(document: dict[str, dict[str, dict[str, object]]]) -> list[tuple[str, str]]:
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


async def test_the_document_is_complete(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()

    assert document["openapi"].startswith("3.1")
    described = {tag["name"] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert set(operation["tags"]) <= described
            assert operation["description"], path
            responses = operation["responses"]
            assert any(status.startswith("2") for status in responses)
            if path.startswith("/api/v1"):
                assert {"400", "401", "403", "422", "503"} <= set(responses)
                assert "X-Request-ID" in operation["responses"]["400"]["headers"]
                assert operation["security"] == [{"ApiKey": []}, {"Bearer": []}]
            for status, response in responses.items():
                if status >= "400" and not path.startswith("/api/health"):
                    assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("path", ["/api/v1/users", "/api/v1/users/{user_id}", "/api/v1/users/changes"])
async def test_the_document_has_the_headers_of_a_read(
    shared_client: httpx.AsyncClient, client: Client, path: str
) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    response = await client.get(path.replace("{user_id}", (await client.make())[-36:]))

    documented = document["paths"][path]["get"]["responses"]["200"]["headers"].keys()
    assert response.status_code == 200
    assert {"cache-control", "etag", "link"} & response.headers.keys() <= {name.lower() for name in documented}


@pytest.mark.parametrize("schema", ["UserUpdate", "UserUpsert", "OwnUpdate"])
async def test_an_absent_field_of_a_patch_has_no_default(shared_client: httpx.AsyncClient, schema: str) -> None:
    document = (await shared_client.get("/openapi.json")).json()

    fields = document["components"]["schemas"][schema]["properties"]

    assert [name for name, field in fields.items() if "default" in field] == []
    assert document["components"]["schemas"][schema]["additionalProperties"] is False


async def test_an_operation_declares_the_errors_that_its_parameters_cause(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    causes = {"If-Match": "412", "Idempotency-Key": "409", "user_id": "404", "import_id": "404"}

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            # A user that a filter names need not exist.
            named = [each["name"] for each in operation.get("parameters", ()) if each["in"] != "query"]
            caused = {causes[name] for name in named if name in causes}
            caused |= {"413", "415"} if "requestBody" in operation else set()
            assert caused <= set(operation["responses"]), f"{method} {path}"


def empty_schemas(part: object, place: str = "") -> list[str]:
    """The places of schemas that say nothing, of which a generator can make nothing."""
    if isinstance(part, dict):
        found = [f"{place}/{name}" for name, value in part.items() if value == {} and name != "headers"]
        return found + [hit for name, value in part.items() for hit in empty_schemas(value, f"{place}/{name}")]
    if isinstance(part, list):
        return [hit for number, value in enumerate(part) for hit in empty_schemas(value, f"{place}/{number}")]
    return []


async def test_no_schema_is_empty(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    for schema in document["components"]["schemas"].values():
        schema.pop("examples", None)

    assert empty_schemas(document) == []


@pytest.mark.parametrize("item", ["CreateItem", "UpdateItem", "UserItem"])
async def test_the_items_of_a_batch_have_their_schema(shared_client: httpx.AsyncClient, item: str) -> None:
    schemas = (await shared_client.get("/openapi.json")).json()["components"]["schemas"]
    batch = schemas[item.replace("Item", "Batch")]

    assert batch["properties"]["items"]["items"] == {"$ref": f"#/components/schemas/{item}"}


async def test_responses_name_their_headers(shared_client: httpx.AsyncClient) -> None:
    paths = (await shared_client.get("/openapi.json")).json()["paths"]

    assert {"Location", "ETag", "Idempotency-Replayed"} <= paths["/api/v1/users"]["post"]["responses"]["201"][
        "headers"
    ].keys()
    assert "Link" in paths["/api/v1/users"]["get"]["responses"]["200"]["headers"]
    assert "Retry-After" in paths["/api/v1/users"]["get"]["responses"]["429"]["headers"]


async def test_the_document_names_licence_and_server(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()

    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert httpx.URL("https://users.example.org/prod/openapi.json").join(document["servers"][0]["url"]) == (
        "https://users.example.org/prod/"
    )


async def test_the_example_of_a_schema_is_accepted(shared_client: httpx.AsyncClient) -> None:
    schemas = (await shared_client.get("/openapi.json")).json()["components"]["schemas"]
    for operation in ("create", "update", "delete", "find"):
        name = {"create": "CreateBatch", "update": "UpdateBatch", "delete": "UserBatch", "find": "FindBatch"}[operation]
        dry_run = {"dry_run": True} if operation != "find" else {}

        response = await shared_client.post(
            f"/api/v1/users/batch/{operation}", json={**schemas[name]["examples"][0], **dry_run}
        )

        assert response.status_code in {200, 207}, response.text


def test_each_status_names_the_codes_of_its_errors() -> None:
    def kinds(error: type[ServiceError]) -> list[type[ServiceError]]:
        return [error, *(kind for child in error.__subclasses__() for kind in kinds(child))]

    known = {(kind.status, kind.code) for kind in kinds(ServiceError)}
    named = {(status, code) for status, codes in CODES.items() for code in codes}

    assert {code for code in known if code[0] in CODES} <= named
