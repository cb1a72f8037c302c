"""The guard over the suite's logs has to see what it is there for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import user_service

LEAKING = {
    "an e-mail in a field": 'log.warning("stored", extra={"who": "grace" + "@" + "example.org"})',
    "a name in a message": 'log.error("no room for %s", user["family_name"])',
    "a name on standard error": 'sys.stderr.write(user["family_name"])',
    "a name in a service's log file": '(tmp_path / "service-1.log").write_text(user["family_name"])',
}


CLEAN = 'log.warning("stored", extra={"rows": 1})'


def run_suite(folder: Path, statements: Iterable[str], *options: str) -> subprocess.CompletedProcess[str]:
    """A suite of a test for each statement, under the guard."""
    tests = [
        f"def test_{number}(tmp_path):\n    user = {{'family_name': 'Mirzakhani'}}\n    {statement}\n"
        for number, statement in enumerate(statements)
    ]
    head = "import sys\nfrom user_service.observability.logging import log\n\n"
    (folder / "test_all.py").write_text(head + "\n".join(tests))
    support = folder / "support"
    support.mkdir()
    (support / "log_guard.py").write_text(Path(__file__).with_name("log_guard.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    command = [sys.executable, "-m", "pytest", "-p", "support.log_guard", "-p", "no:cacheprovider", "-q", *options]
    own = {"PYTHONPATH": str(Path(user_service.__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'tmp'}", "test_all.py"],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    # The guard of the outer suite would find what this one planted.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    return done


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "1")], ids=["one process", "a worker"])
def test_every_leak_is_seen_and_fails_the_suite(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run_suite(tmp_path, [CLEAN, *LEAKING.values()], *options)

    found = re.findall(r"^(?:test_all\.py::test_(\d)|(service-1\.log)): '(\S+)' in", done.stdout, re.MULTILINE)
    assert done.returncode == 1, done.stdout
    assert "5 passed" in done.stdout
    assert [number or place for number, place, _ in found] == ["1", "2", "3", "service-1.log"], done.stdout


def test_a_clean_log_passes(tmp_path: Path) -> None:
    done = run_suite(tmp_path, [CLEAN])

    assert done.returncode == 0, done.stdout
    assert "no personal data in 1 lines" in done.stdout
