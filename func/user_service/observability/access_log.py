"""The access log: one line per request, written in groups, since one write per line would cost more than a read."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from user_service.errors import SERVER_ERROR
from user_service.observability.logging import LEVELS, format_level, paint

STATUS_COLOURS: Final = {1: "36", 2: "32", 3: "36", 4: "33", 5: "31"}
FLUSH_SECONDS: Final = 0.1
MAX_BUFFERED: Final = 1000


class AccessLog:
    """Buffers lines for a tenth of a second at most, then writes them together."""

    def __init__(self, *, level: str = "info", log_format: str, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.encode = encode_json if log_format == "json" else TextEncoder(colour=self.stream.isatty())
        self.threshold = LEVELS[level]
        self.buffer: list[dict[str, Any]] = []
        self.timer: asyncio.TimerHandle | None = None

    def write(self, fields: dict[str, Any]) -> None:
        """Adds a line: method, route, status, milliseconds, rows, request_id, trace_id and the principal's kind.

        A response with 5xx has the level error, any other info. Lines below the log's level are dropped.
        """
        level = "error" if fields["status"] >= SERVER_ERROR else "info"
        if LEVELS[level] < self.threshold:
            return
        fields["time"], fields["level"] = datetime.now(UTC), level
        self.buffer.append(fields)
        if len(self.buffer) >= MAX_BUFFERED:
            self.flush()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        lines, self.buffer = self.buffer, []
        if lines:
            self.stream.write("".join(map(self.encode, lines)))
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
    """Lines for people to read, with colours on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour

    def __call__(self, fields: dict[str, Any]) -> str:
        clock = fields["time"].astimezone().strftime("%H:%M:%S")
        level = format_level(fields["level"], colour=self.colour)
        status = paint(str(fields["status"]), STATUS_COLOURS[fields["status"] // 100], colour=self.colour)
        rest = "".join(
            f" {name}={fields[name]}"
            for name in ("rows", "principal", "request_id", "trace_id")
            if fields.get(name) is not None
        )
        return f"{clock} {level} {fields['method']} {fields['route']} {status} {fields['milliseconds']} ms{rest}\n"
