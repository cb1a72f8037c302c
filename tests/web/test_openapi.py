"""The OpenAPI document and the service say the same"""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.process import ServiceProcess
from support.settings import API_KEY

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
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"], path
            answers = operation["responses"]
            assert any(status.startswith("2") for status in answers)
            if path.startswith("/api/v1"):
                assert {"400", "401", "403", "422", "503"} <= set(answers)
                assert operation["security"] == [{"ApiKey": []}, {"Bearer": []}]
            for status, answer in answers.items():
                if status >= "400" and not path.startswith("/api/health"):
                    assert list(answer["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("schema", ["UserUpdate", "UserUpsert"])
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
            caused = {causes.get(parameter["name"]) for parameter in operation.get("parameters", ())} - {None}
            caused |= {"413", "415"} if "requestBody" in operation else set()
            assert caused <= set(operation["responses"]), f"{method} {path}"
