"""The models of the client are those of the service's OpenAPI document: a field that is added there fails here."""

import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from user_service.web.api import OPEN_ROUTERS, ROUTERS
from user_service.web.openapi_document import make_document
from user_service_client import errors, models
from user_service_client.events import EventData
from user_service_client.imports import FORMATS

ROOT = Path(__file__).parents[3]
DOCUMENT = make_document([route for router in (*ROUTERS["all"], *OPEN_ROUTERS) for route in router.routes])
SCHEMAS = DOCUMENT["components"]["schemas"]
# Members that only the client has.
OWN = {"Import": {"was_done_before"}}
RESPONSES = {
    models.User: "UserRead",
    models.UserPage: "UserPage",
    models.AuditEntry: "ChangeRead",
    models.TrailPage: "ChangePage",
    models.AuditRecord: "AuditEntryRead",
    models.AuditPage: "AuditPage",
    models.Change: "FeedChangeRead",
    models.ChangePage: "FeedPageRead",
    models.ItemError: "ItemError",
    models.ItemResult: "ItemOutcome",
    models.Summary: "Summary",
    models.BatchResult: "BatchRead",
    models.MissingKeys: "MissingKeys",
    models.Found: "FoundRead",
    models.Import: "ImportRead",
    models.ImportList: "ImportList",
}
REQUESTS = {
    models.NewUser: "UserCreate",
    models.UserPatch: "UserUpdate",
    models.UpsertFields: "UserUpsert",
    models.OwnPatch: "OwnUpdate",
}


def describe(schema: Mapping[str, Any]) -> str:
    """A schema in few words, such as `array of string or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        words = sorted({describe(each) for each in schema["anyOf"]} - {"null", "SelectedUser"})
        is_nullable = any(each.get("type") == "null" for each in schema["anyOf"])
        return " or ".join([*words, *(["null"] if is_nullable else [])])
    if "enum" in schema:
        return " | ".join(sorted(schema["enum"]))
    if schema.get("type") == "array":
        return f"array of {describe(schema['items'])}"
    return "time" if schema.get("format") == "date-time" else str(schema.get("type"))


def describe_hint(hint: Any) -> str:
    """The same of an annotation of the client."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Literal:
        return " | ".join(sorted(arguments))
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, typing.Sequence)):
        return f"array of {describe_hint(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "object"
    if arguments:
        words = sorted({describe_hint(each) for each in arguments} - {"null"})
        return " or ".join([*words, *(["null"] if type(None) in arguments else [])])
    if is_dataclass(hint):
        return RESPONSES[hint]  # type: ignore[index]
    names = {str: "string", int: "integer", bool: "boolean", datetime: "time", type(None): "null"}
    return names[hint]


def properties(schema: str) -> dict[str, str]:
    return {name: describe(each) for name, each in SCHEMAS[schema]["properties"].items()}


@pytest.mark.parametrize(("model", "schema"), RESPONSES.items(), ids=lambda each: str(each))
def test_a_model_has_the_fields_of_its_schema(model: type, schema: str) -> None:
    hints = {name: describe_hint(hint) for name, hint in get_type_hints(model).items()}
    own = OWN.get(model.__name__, set())
    optional = {each.name for each in fields(model) if each.default is not MISSING}  # type: ignore[arg-type]
    wanted = {
        # A member that may be absent is None in the client.
        name: text if name in SCHEMAS[schema]["required"] else f"{text} or null"
        for name, text in properties(schema).items()
    }

    assert {name: text for name, text in hints.items() if name not in own} == wanted
    assert optional - own == SCHEMAS[schema]["properties"].keys() - set(SCHEMAS[schema]["required"])


@pytest.mark.parametrize(("model", "schema"), REQUESTS.items(), ids=lambda each: str(each))
def test_a_request_has_the_fields_of_its_schema(model: Any, schema: str) -> None:
    wanted = properties(schema)
    if schema == "UserUpsert":
        # The path has it.
        del wanted["external_id"]
    hints = {name: describe_hint(hint).removesuffix(" or null") for name, hint in get_type_hints(model).items()}

    assert hints == {name: text.removesuffix(" or null") for name, text in wanted.items()}
    assert model.__required_keys__ == set(SCHEMAS[schema].get("required", ()))


def test_the_filters_are_the_parameters_of_the_list() -> None:
    parameters = {each["name"] for each in DOCUMENT["paths"]["/api/v1/users"]["get"]["parameters"]}
    pages = {"sort", "limit", "cursor", "count", "fields"}

    assert set(get_type_hints(models.Filters)) == {
        {"include": "include_deleted", "metadata.<key>": "metadata"}.get(name, name) for name in parameters - pages
    }


def test_every_operation_of_users_is_offered() -> None:
    """Each operation of the document below /users has a method, which is in the source by its path or its name."""
    source = "".join(
        path.read_text() for path in Path(sys.modules["user_service_client"].__file__ or "").parent.glob("*.py")
    )
    for path in DOCUMENT["paths"]:
        if path.startswith(("/api/v1/users/", "/api/v1/audit")):
            last = [part for part in path.split("/") if not part.startswith("{")][-1]
            assert last == "users" or f"/{last}" in source or f'"{last}"' in source, path


def test_every_code_of_the_documentation_has_its_class_or_that_of_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    known = {kind.code: kind for kind in errors.BY_CODE.values()}
    # Codes of the connection, or of another interface.
    general = {"method_not_allowed", "request_too_slow", "head_too_large", "internal_error"}

    assert len(rows) > 30
    assert known.keys() <= {code for code, _ in rows}
    for code, status in rows:
        error = errors.make_error(int(status), {"code": code, "request_id": "r"})
        assert code in general or type(error) is not errors.ServiceError, code
        assert issubclass(type(error), errors.BY_STATUS.get(int(status), errors.ServiceError))


def test_the_data_of_an_event_is_what_the_service_sends() -> None:
    from user_service.events.types import PendingChange

    change = PendingChange(1, True, 0, "u", 2, "e", "created", "active", [], "a", "t", datetime(2026, 1, 1))  # noqa: DTZ001

    assert set(change.data) == {each.name for each in fields(EventData)}
    assert {"id", "source", "type", "subject", "time", "traceparent"} <= change.attributes("s").keys()


def test_the_formats_of_files_are_those_of_an_import() -> None:
    assert set(FORMATS.values()) == set(get_args(models.FileFormat))
