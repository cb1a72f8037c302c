from collections.abc import Iterator
from pathlib import Path

import pytest

from doors.doors import install_function
from sinks import Sink, running_sink


@pytest.fixture(scope="session")
def function_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the project installed as kn func does it."""
    return install_function(tmp_path_factory.mktemp("function"))


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink
