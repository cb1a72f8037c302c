"""What docs/ promises is there, and what is there stands in docs/"""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from user_service import errors
from user_service.settings import PARSERS, Settings
from user_service.users.imports import runner  # noqa: F401 - has error codes of its own
from user_service.web import problems

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = DOCS.parent / "func/user_service"


def list_subclasses(error: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [error, *(kind for child in error.__subclasses__() for kind in list_subclasses(child))]


CODES = {kind.code: kind.status for kind in list_subclasses(errors.ServiceError)}
# Codes of the connection's own refusals, and the one of a whole batch, are not classes of errors.
PROTOCOL = (SOURCE / "server/protocol.py").read_text(encoding="utf-8")
CONNECTION_CODES = {code: int(status) for status, code in re.findall(r'\b([45]\d\d): "(\w+)"', PROTOCOL)}
OTHER_CODES = CONNECTION_CODES | {"batch_refused": 409}
HTTP_CODES = {code: status for status, (code, _) in problems.TITLES.items()}
# How a fault of a field, an event or a record is written; its code is the group.
FAULTS = (
    r'PydanticCustomError\(\s*"(\w+)"',
    r'FieldError\([^,()]+(?:\([^()]*\))?[^,()]*, "(\w+)"',
    r'BadRecord\(\s*"(\w+)"',
    r'UnreadableFile\([^\n]*code="(\w+)"',
    r'self\.fail\(\s*"(\w+_\w+)"',
    r'invalid\([^,]*, "(\w+)"',
)
# Read beside the parsers, for the parts of a URL and the folder of secrets.
OTHER_SETTINGS = {
    "SECRETS_DIR",
    *(f"POSTGRES_{part}" for part in ("HOST", "PORT", "DB", "USER", "USER_PASSWORD")),
    *(f"REDIS_{part}" for part in ("HOST", "PORT", "PASSWORD")),
}


def read_document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(name: str) -> list[str]:
    return re.findall(r"^\| (`.*?) \|", read_document(name), re.MULTILINE)


def error_rows() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}|any) \| (.+) \| (.+) \|$", read_document("errors.md"), re.MULTILINE)
    return {code: rest for code, *rest in rows}


@pytest.mark.parametrize(("code", "status"), sorted((CODES | HTTP_CODES | OTHER_CODES).items()))
def test_an_error_code_is_explained_with_its_status_and_remedy(code: str, status: int) -> None:
    documented, meaning, remedy = error_rows()[code]

    assert documented == str(status)
    assert meaning
    assert remedy


def test_every_error_code_in_the_source_is_explained() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))

    codes = set(re.findall(r"""\bcode, title = (?:\d+, )?"(\w+)\"""", written))

    assert codes >= CODES.keys() - {"internal_error"}
    assert codes <= error_rows().keys()


def test_no_error_code_is_explained_that_does_not_exist() -> None:
    assert set(error_rows()) == {*CODES, *HTTP_CODES, *OTHER_CODES, "http_error"}


def test_every_code_of_a_fault_is_explained() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    codes = {code for pattern in FAULTS for code in re.findall(pattern, written)}
    explained = re.findall(r"`(\w+)`", " ".join(first_cells("errors.md")))

    assert {"unclosed_quote", "repeated_attribute", "creation_time"} <= codes
    assert codes - set(explained) == set()


def test_the_codes_of_the_connection_are_found() -> None:
    assert {"request_too_slow", "head_too_large"} <= CONNECTION_CODES.keys()


@pytest.mark.parametrize("prefix", ["?", "path:", "header:"])
def test_every_kind_of_pointer_is_explained(prefix: str) -> None:
    assert f"`{prefix}name`" in read_document("errors.md")
    assert f'"{prefix}"' in (SOURCE / "users/validation_errors.py").read_text(encoding="utf-8")


def test_every_setting_is_explained_and_no_other() -> None:
    explained = {name for cell in first_cells("configuration.md") for name in re.findall(r"`([A-Z_]+)`", cell)}

    assert explained == {name.upper() for name in PARSERS} | OTHER_SETTINGS - {"SECRETS_DIR"}
    assert "`SECRETS_DIR`" in read_document("configuration.md")


def test_defaults_are_the_ones_in_force() -> None:
    shown = read_document("configuration.md")
    for field in fields(Settings):
        if isinstance(field.default, bool):
            assert f"`{field.name.upper()}` | `{str(field.default).lower()}`" in shown
        elif isinstance(field.default, str | int) and field.name not in {"host", "port"}:
            assert f"`{field.name.upper()}` | `{field.default}`" in shown


def test_settings_that_are_read_are_known() -> None:
    source = (SOURCE / "settings.py").read_text(encoding="utf-8")

    assert set(re.findall(r'(?:text|get)\("([A-Z_]+)"', source)) <= OTHER_SETTINGS


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_within_the_documentation_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", read_document(name)):
        path = (DOCS / target) if target else DOCS / name
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", [*DOCS.parent.glob("*.md"), *DOCS.rglob("*.md"), *SOURCE.rglob("*.py")], ids=str)
def test_no_text_tells_to_install_the_distribution_by_its_name(file: Path) -> None:
    """The name `function` is what kn func demands; a package index may give it to another project."""
    assert not re.search(r"pip install '?function\b", file.read_text(encoding="utf-8"))
