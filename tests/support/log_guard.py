"""Watches what the service logs while the whole suite runs: not one e-mail address, name or number of a person in it.

The values are those that the tests themselves write down. Looked at are the standard error of every test, to which a
handler of the service's own format adds what is logged without a set-up, and the log files of started services.
"""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from user_service.observability.logging import JsonFormatter

EMAIL = re.compile(r"[\w.+-]+@(?:[\w-]+\.)+[\w-]{2,}", re.ASCII)
GIVEN = re.compile(r"""(?:given_name|family_name|display_name|phone)["']?\s*[:=]\s*["']([^"'\\{}]{4,})["']""")
# The first request that `serve` shows a developer.
EXAMPLE = re.compile(r"-d '\{\"email\": \"alan@example\.org\"")
SHOWN = 10


class LogGuard:
    """Collects, on the process that runs the session, the lines with personal data."""

    def __init__(self, tests: Path) -> None:
        sources = "\n".join(path.read_text() for path in tests.rglob("*.py"))
        self.names = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(set(GIVEN.findall(sources)))))
        self.leaks: list[str] = []
        self.lines = 0

    def examine(self, place: str, text: str) -> None:
        for line in text.splitlines():
            self.lines += 1
            found = EMAIL.search(line) or self.names.search(line)
            if found is not None and found[0] and not EXAMPLE.search(line):
                self.leaks.append(f"{place}: {found[0]!r} in {line[:200]}")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for title, text in report.sections:
            if title == f"Captured stderr {report.when}":
                self.examine(report.nodeid, text)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        factory = getattr(session.config, "_tmp_path_factory", None)
        if factory is not None:
            for path in sorted(factory.getbasetemp().rglob("service-*.log")):
                self.examine(path.name, path.read_text(errors="replace"))
        if self.leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.leaks:
            terminalreporter.section("personal data in the log", red=True)
            for leak in self.leaks[:SHOWN]:
                terminalreporter.line(leak)
        else:
            terminalreporter.line(f"no personal data in {self.lines} lines of the service's log")


class ShownHandler(logging.Handler):
    """Writes to whatever standard error is at the moment: pytest changes it from test to test."""

    def emit(self, record: logging.LogRecord) -> None:
        stream: TextIO = sys.stderr
        stream.write(self.format(record) + "\n")


@pytest.fixture(autouse=True)
def unchanged_root() -> Iterator[None]:
    """Takes back what a test that sets up the service's logs in this process did for those after it: the tests' own
    HTTP client would log its addresses.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.setLevel(logging.WARNING)
    yield
    root.handlers[:] = [handler for handler in handlers if not isinstance(handler.formatter, JsonFormatter)]
    root.setLevel(logging.WARNING)


@pytest.fixture(scope="session", autouse=True)
def shown_log() -> Iterator[None]:
    handler = ShownHandler()
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("user_service")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


def pytest_configure(config: pytest.Config) -> None:
    # With xdist the workers' reports arrive where the session runs.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LogGuard(Path(__file__).parents[1]), "log-guard")
