"""Exit statuses of `users`, and the errors that end it with one."""

from __future__ import annotations

SUCCESS = 0
FAILED = 1
WRONG_USAGE = 2
REFUSED = 3
INTERRUPTED = 130


class CommandFailed(Exception):
    """Ends the command with a message on standard error and an exit status."""

    def __init__(self, message: str, status: int = WRONG_USAGE) -> None:
        super().__init__(message)
        self.status = status
