import os
from pathlib import Path

import pytest

from support.process import RunCommand
from user_service.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> RunCommand:
    """Runs a command with these settings alone; gives its status and what it said."""

    def run_command(*arguments: str, **environ: str) -> tuple[int, str]:
        for name in os.environ:
            monkeypatch.delenv(name)
        given = {"DATA_DIR": str(tmp_path / "data"), "SECRETS_DIR": str(tmp_path / "none"), **environ}
        for name, text in given.items():
            monkeypatch.setenv(name, text)
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run_command
