"""The import contracts of pyproject.toml, as scripts/check holds them with import-linter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copytree(ROOT / "func", tmp_path / "func", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    environ = {**os.environ, "PYTHONPATH": str(project / "func"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)


def add_import(project: Path, module: str, imported: str, *, inside_function: bool = False) -> None:
    path = project / "func/user_service" / module
    line = f"def late() -> None:\n    import {imported}\n" if inside_function else f"import {imported}\n"
    path.write_text(f"{path.read_text()}\n\n{line}")


def test_the_contracts_are_kept(project: Path) -> None:
    result = lint_imports(project)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("additions", "broken"),
    [
        pytest.param(
            [("values/ids.py", "fastapi"), ("users/rules.py", "user_service.values.ids")],
            "The core knows no web framework",
            id="users reach fastapi by way of a third module",
        ),
        pytest.param([("users/rules.py", "user_service.web.problems")], "Each folder imports only", id="upwards"),
        pytest.param([("users/ids_too.py", "user_service.events.types")], "Each folder", id="upwards from a new file"),
        pytest.param([("helpers.py", "json")], "Each folder imports only", id="a top-level module without a floor"),
        pytest.param(
            [("values/ids.py", "user_service.values.emails"), ("values/emails.py", "user_service.values.ids")],
            "No modules import each other",
            id="a circle in one folder",
        ),
        pytest.param([("users/reader.py", "pydantic")], "The read of a user starts", id="pydantic on the read path"),
    ],
)
def test_an_import_against_a_contract_fails(project: Path, additions: list[tuple[str, str]], broken: str) -> None:
    for module, imported in additions:
        (project / "func/user_service" / module).touch()
        add_import(project, module, imported)

    result = lint_imports(project)

    assert result.returncode == 1
    assert any(broken in line and "BROKEN" in line for line in result.stdout.splitlines())


def test_an_import_inside_a_function_counts(project: Path) -> None:
    add_import(project, "cache/memory.py", "user_service.users.reader", inside_function=True)

    assert lint_imports(project).returncode == 1
