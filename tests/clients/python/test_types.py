"""The public interface in the eyes of a type checker, in strict mode, for the oldest Python that it supports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import user_service_client

FOLDER = Path(__file__).parent
CLIENT = FOLDER.parents[2] / "clients/python"


def check_types(*arguments: str, folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir", os.devnull, *arguments]
    environ = {**os.environ, "MYPYPATH": str(path)}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_a_strict_program_of_the_whole_interface_has_no_type_errors(tmp_path: Path) -> None:
    arguments = ["--strict", "--python-version", "3.10", str(FOLDER / "program.py")]

    result = check_types(*arguments, folder=tmp_path, path=CLIENT / "src")

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("client.users.create()", "email"),
        ("client.users.create(email=7)", "email"),
        ("client.users.create(email='a', shoe_size=5)", "shoe_size"),
        ("client.users.update('x', status='deleted')", "status"),
        ("client.users.list(colour='red')", "colour"),
        ("client.users.batch.create([{'given_name': 'Ada'}])", "email"),
        ("client.users.get('x').shoe_size", "shoe_size"),
        ("client.users.update_with('x', lambda user: 7)", "incompatible type"),
        ("[each async for each in client.users.list()]", "async"),
    ],
)
def test_wrong_uses_are_type_errors(tmp_path: Path, line: str, said: str) -> None:
    program = tmp_path / "wrong.py"
    program.write_text(
        f"from user_service_client import Client\n\n\nasync def use(client: Client) -> None:\n    print({line})\n"
    )

    result = check_types("--strict", str(program), folder=tmp_path, path=CLIENT / "src")

    assert result.returncode == 1
    assert said in result.stdout


def test_what_the_package_names_is_there_and_nothing_else_is_needed() -> None:
    assert (CLIENT / "src/user_service_client/py.typed").exists()
    assert [name for name in user_service_client.__all__ if not hasattr(user_service_client, name)] == []
    metadata = (CLIENT / "pyproject.toml").read_text()
    assert re.findall(r"^dependencies = (.*)$", metadata, re.MULTILINE) == ['["httpx2>=2.9"]']
    assert f'version = "{user_service_client.__version__}"' in metadata
