"""Placeholders in manifests and Secrets, by the list of the service itself. Standard library only."""

import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "func"))

from user_service.values.placeholders import PLACEHOLDERS, find_secret_fault

__all__ = ["PLACEHOLDERS", "find_secret_fault", "find_unfilled_lines"]

# Words that stand in good manifests too: in the names of kinds, keys and settings.
NAMES = {"secret", "password", "example"}
UNFILLED = re.compile(
    "|".join([*map(re.escape, sorted(PLACEHOLDERS - NAMES)), r"example\.(com|org|net)\b", ":latest", r"<[\w-]+>"]),
    re.IGNORECASE,
)


def find_unfilled_lines(text: str) -> list[str]:
    """Lines of a rendered overlay with a placeholder, each as `NUMBER:LINE`, cut to 80 characters of the line."""
    return [f"{n}:{line[:80]}" for n, line in enumerate(text.splitlines(), start=1) if UNFILLED.search(line)]
