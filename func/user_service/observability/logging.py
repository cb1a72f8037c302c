"""Logs: one line per event, JSON or text, to standard error, without personal data.

An exception is logged with its type and its frames, without its message, which may quote data.
"""

import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

import orjson

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}
STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

log = logging.getLogger("user_service")


def set_up_logs(*, level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Replaces the handlers of the root logger by one."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(colour=handler.stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES}
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = record.exc_info[0].__name__
        fields["at"] = describe_frames(record.exc_info[2])
    return fields


def describe_frames(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)[-12:]]


def format_level(level: str, *, colour: bool) -> str:
    return paint(f"{level:7}", COLOURS.get(level, "0"), colour=colour)


def paint(text: str, code: str, *, colour: bool) -> str:
    """The text in a colour, given by its code (ECMA-48)."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        return orjson.dumps(line, option=orjson.OPT_UTC_Z, default=str).decode()


class TextFormatter(logging.Formatter):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        shown = format_level(level, colour=self.colour)
        rest = "".join(f" {name}={value}" for name, value in extra_fields(record).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {shown} {record.getMessage()}{rest}"
