import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.embedded import EmbeddingProcess, server_pids
from support.waiting import wait_until


@pytest.fixture
def start_service() -> Iterator[Callable[..., EmbeddingProcess]]:
    started: list[EmbeddingProcess] = []

    def start(data_dir: Path, uid: int | None = None) -> EmbeddingProcess:
        started.append(EmbeddingProcess(data_dir, os.geteuid() if uid is None else uid))
        return started[-1]

    yield start
    for service in started:
        service.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    for pid in server_pids(folder):
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not server_pids(folder), "the end of the server")
