"""The settings of tests, as an object and as the environment of a process."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_service.settings import Settings

API_KEY = "an-internal-key-of-the-tests-7d1f"
OTHER_API_KEY = "the-key-that-comes-after-it-93ab"
ENCRYPTION_KEY = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHER_ENCRYPTION_KEY = "k2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


def make_settings(database_url: str | None, data_dir: Path, **others: Any) -> Settings:
    """Settings with keys and without an access log, unless `others` says otherwise."""
    own = {"encryption_key": ENCRYPTION_KEY, "internal_api_key": (API_KEY, OTHER_API_KEY), "access_log": False}
    return Settings(database_url=database_url, data_dir=data_dir, **{**own, **others})


def make_environ(folder: Path, others: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a process of the service: keys, a data folder below `folder`, and `others`."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    own = {"DATA_DIR": str(folder / "data"), "ENCRYPTION_KEY": ENCRYPTION_KEY, "INTERNAL_API_KEY": API_KEY}
    return {**kept, **own, **others}
