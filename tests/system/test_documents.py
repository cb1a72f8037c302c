"""What README.md, CONTRIBUTING.md and docs/ tell to run does what they say, run from their own text."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import httpx
import pytest
import yaml

from support.documents import (
    LANGUAGES,
    NOT_RUN,
    ROOT,
    Block,
    Shell,
    document_paths,
    expected_statuses,
    read_blocks,
    runnable_blocks,
)
from support.event_sink import running_sink
from support.ports import free_port
from support.servers import PostgresServer
from user_service.cli.main import build_parser
from user_service.postgres.embedded.socket_folder import socket_folder, socket_url
from user_service.postgres.embedded.wheel import find_programs
from user_service_client.command.main import build_parser as build_users_parser

BLOCKS = [block for path in document_paths() for block in read_blocks(path)]
WITH_COMMANDS = [path for path in document_paths() if runnable_blocks(path)]
DATABASE = "postgresql://user_service:PASSWORD@HOST:5432"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell beside a service on its defaults, with an embedded PostgreSQL in an empty home."""
    folder = tmp_path_factory.mktemp("documents")
    port = free_port()
    environ = {
        "HOME": str(folder),
        "PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LANG": "C.UTF-8",
        "FREE_PORT": str(free_port()),
    }
    with (folder / "log").open("wb") as log, running_sink() as sink:
        service = subprocess.Popen(
            [sys.executable, "-m", "user_service.cli.main", "serve"],
            env={**environ, "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not is_ready(f"http://127.0.0.1:{port}/api/health/ready"):
                assert service.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            data = folder / ".local/share/user-service"
            sockets = socket_folder(data, data / "postgres")
            yield Shell(
                folder,
                find_programs(None),
                environ | {"PGHOST": str(sockets), "PGUSER": "postgres"},
                {
                    "localhost:3002": f"localhost:{port}",
                    "localhost:4318": f"localhost:{free_port()}",
                    "http://localhost:8080": sink.url,
                    f"{DATABASE}/users_restored": f"'{socket_url(sockets, 'users_restored')}'",
                    f"{DATABASE}/users": f"'{socket_url(sockets, 'user_service')}'",
                },
            )
        finally:
            service.terminate()
            service.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.name)
def test_the_commands_of_a_document_work_when_copied(path: Path, shell: Shell) -> None:
    blocks = runnable_blocks(path)

    result, statuses = shell.run(blocks)

    assert result.returncode == 0, result.stdout + result.stderr
    expected = [status for block in blocks for status in expected_statuses(block)]
    assert len(statuses) == len(expected), result.stderr
    assert [status[: len(wanted)] for status, wanted in zip(statuses, expected, strict=True)] == expected, result.stdout


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}")
def test_a_block_has_a_language_and_its_syntax(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "json":
        json.loads(block.text)
    if block.language == "yaml":
        yaml.safe_load(block.text)
    if block.language == "ini":
        ConfigParser().read_string(block.text)
    if block.language == "python":
        compile(block.text, block.document, "exec")
    if block.language == "sh":
        subprocess.run(["bash", "-n", "-c", block.text], check=True)


@pytest.mark.parametrize("document", sorted({block.document for block in BLOCKS if block.language == "sql"}))
def test_the_statements_of_a_document_work_in_their_order(document: str, own_postgres: PostgresServer) -> None:
    for block in BLOCKS:
        if block.document == document and block.language == "sql":
            own_postgres.execute(block.text)


@pytest.mark.parametrize("program", sorted(NOT_RUN))
def test_a_reason_not_to_run_a_block_is_needed(program: str) -> None:
    assert [block for block in BLOCKS if block.language == "sh" and program in block.reasons]


@pytest.mark.parametrize("program", ["scripts/test", "scripts/bench"])
def test_what_is_too_large_to_run_here_is_a_step_of_ci(program: str) -> None:
    assert program in (ROOT / ".ci/run").read_text()


def test_each_document_has_its_own_persons() -> None:
    """The second example that a reader tries must not answer `email_taken`."""
    greeting = (ROOT / "func/user_service/cli/serve.py").read_text()
    persons = Counter(re.findall(r'"email": "([\w.]+@[\w.]+)"', greeting))
    for path in WITH_COMMANDS:
        text = "".join(block.text for block in runnable_blocks(path))
        persons.update({address.lower() for address in re.findall(r"[\w.]+@[\w.]*example\.org", text)})

    assert [address for address, count in persons.items() if count > 1] == []


def inline_commands() -> list[tuple[str, str]]:
    """Commands of the service in the running text and the tables, with the name of the document."""
    command = re.compile(r"`(?:scripts/)?user-service ([a-z][^`]*)`")
    return [(path.name, found) for path in document_paths() for found in command.findall(path.read_text("utf-8"))]


@pytest.mark.parametrize(("document", "command"), sorted(set(inline_commands())))
def test_a_command_in_the_text_exists(document: str, command: str) -> None:
    words = shlex.split(command)
    if words == ["keys"]:
        words.append("new")

    build_parser().parse_args(words)


def test_the_commands_of_the_client_in_the_text_exist() -> None:
    """In running text, and in the blocks of the client's README, which need a service of another address."""
    readme = ROOT / "clients/python/README.md"
    command = re.compile(r"`(?:scripts/)?users ([a-z][^`]*)`")
    named = {found for path in [*document_paths(), readme] for found in command.findall(path.read_text("utf-8"))}
    named |= set(re.findall(r"^users ([a-z].*)$", readme.read_text("utf-8"), re.MULTILINE))

    assert len(named) > 8
    for text in named:
        words = shlex.split(text.partition(" | ")[0], comments=True)
        build_users_parser().parse_args([*words, "users.csv"] if words == ["import"] else words)


@pytest.mark.parametrize("path", document_paths(), ids=lambda path: path.name)
def test_a_script_in_the_text_exists(path: Path) -> None:
    named = set(re.findall(r"(?<![\w/])((?:scripts|\.ci|benchmarks)/[\w.-]*\w)", path.read_text(encoding="utf-8")))

    assert [name for name in named - {"benchmarks/results"} if not (ROOT / name).exists()] == []


async def test_a_request_in_the_text_exists(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()
    known = [
        (method.upper(), re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))))
        for path, methods in document["paths"].items()
        for method in methods
    ]
    request = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[\w/{}.-]*\w}?)[?`]")
    named = {found for path in document_paths() for found in request.findall(path.read_text("utf-8"))}
    # Documents about performance leave out the prefix.
    named = {(method, re.sub("^/users", "/api/v1/users", target)) for method, target in named}
    # One route serves all of SCIM, where SCIM=true; tests/scim asks it.
    scim = {target for _, target in named if target.startswith("/scim/v2/")}
    assert {target.split("/")[3] for target in scim} <= {
        "Users",
        "Bulk",
        "ServiceProviderConfig",
        "Schemas",
        "ResourceTypes",
    }
    others = {
        (method, target)
        for method, target in named
        if target not in scim and not any(method == verb and pattern.fullmatch(target) for verb, pattern in known)
    }

    # Pages for people are not in the document.
    assert {(method, target) for method, target in others if method != "GET"} == set()
    for _, target in others:
        assert (await shared_client.get(target)).status_code == 200, target


def test_the_example_of_contributing_selects_tests() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    arguments = re.findall(r"scripts/test ([\w/]+ -k \w+)", text)[0].split()

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout


def test_the_numbers_of_the_readme_are_measured() -> None:
    measured = (ROOT / "docs/performance.md").read_text() + (ROOT / "docs/measurements.md").read_text()
    table = (ROOT / "README.md").read_text().partition("| measured |\n| --- | --- | --- |\n")[2].partition("\n\n")[0]
    cells = [row.rpartition(" | ")[2] for row in table.splitlines() if row.count(" | ") == 2]

    numbers = {number for cell in cells for number in re.findall(r"\d[\d,.]*\d|\d", cell)}

    assert len(cells) == 5
    assert {number for number in numbers if number not in measured} == set()
