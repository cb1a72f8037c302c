"""Where a program keeps its place in the feed of changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class CursorStore(Protocol):
    """Loads and saves the cursor of the last changes that were processed; None before the first."""

    def load(self) -> str | None: ...

    def save(self, cursor: str) -> None: ...


class CursorFile:
    """A cursor in a file, which is replaced as a whole: a crash leaves the old or the new cursor."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> str | None:
        """The cursor, None without a file. Raises OSError, also where the file's folder is missing."""
        try:
            return self.path.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise
            return None

    def save(self, cursor: str) -> None:
        draft = self.path.with_name(self.path.name + ".new")
        with draft.open("w", encoding="ascii") as file:
            file.write(cursor)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
