"""The access log: one line a request, written together, since a write for each would cost more than a read."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from user_service.observability.logging import LEVELS, paint, shown_level

SERVER_ERROR: Final = 500
STATUS_COLOURS: Final = {1: "36", 2: "32", 3: "36", 4: "33", 5: "31"}
FLUSH_SECONDS: Final = 0.1
MAX_HELD: Final = 1000


class AccessLog:
    """Holds lines for at most a tenth of a second, then writes them together."""

    def __init__(self, *, level: str = "info", log_format: str, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.encode = encode_json if log_format == "json" else TextEncoder(colour=self.stream.isatty())
        self.threshold = LEVELS[level]
        self.held: list[dict[str, Any]] = []
        self.timer: asyncio.TimerHandle | None = None

    def write(self, fields: dict[str, Any]) -> None:
        """Takes a line: method, route, status, milliseconds, rows, request_id, trace_id and principal's kind.

        An answer with 5xx is an error, any other is information; what is below the log's level is left out.
        """
        level = "error" if fields["status"] >= SERVER_ERROR else "info"
        if LEVELS[level] < self.threshold:
            return
        fields["time"], fields["level"] = datetime.now(UTC), level
        self.held.append(fields)
        if len(self.held) >= MAX_HELD:
            self.flush()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        held, self.held = self.held, []
        if held:
            self.stream.write("".join(map(self.encode, held)))
            self.stream.flush()


def encode_json(fields: dict[str, Any]) -> str:
    line = {
        "time": fields.pop("time"),
        "level": fields.pop("level"),
        "logger": "access",
        "message": "request",
        **fields,
    }
    return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE).decode()


class TextEncoder:
    """A line for people, with colours on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour

    def __call__(self, fields: dict[str, Any]) -> str:
        clock = fields["time"].astimezone().strftime("%H:%M:%S")
        level = shown_level(fields["level"], colour=self.colour)
        status = paint(str(fields["status"]), STATUS_COLOURS[fields["status"] // 100], colour=self.colour)
        rest = "".join(
            f" {name}={fields[name]}"
            for name in ("rows", "principal", "request_id", "trace_id")
            if fields.get(name) is not None
        )
        return f"{clock} {level} {fields['method']} {fields['route']} {status} {fields['milliseconds']} ms{rest}\n"
