import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doors.doors import install_function_once
from sinks import Sink, running_sink


@pytest.fixture(scope="session")
def function_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the project installed as kn func does it, one for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    return install_function_once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "function")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink
