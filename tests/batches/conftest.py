from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batch_service import BatchService, batch_service


@pytest.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[BatchService]:
    """A service over a database of the test's own, and what its database says."""
    async with batch_service(database_url, tmp_path) as service:
        yield service
