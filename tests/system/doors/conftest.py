import os
from pathlib import Path

import pytest

from support.doors import install_function_once


@pytest.fixture(scope="session")
def function_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the project installed as kn func does it, one for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    return install_function_once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "function")
