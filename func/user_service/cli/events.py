"""`user-service events replay`: posts the events of past changes to the sink again, or dead letters."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from user_service.cli.database import describe_failure, open_database
from user_service.errors import EXIT_FAILED, CommandFailed, ConfigurationError, DatabaseUnavailable
from user_service.events.feed import Feed
from user_service.events.replay import Replay, Selection, SinkFailing, read_dead_letters
from user_service.events.sink import open_sink
from user_service.events.types import BATCH_OPERATIONS, BATCH_RESULT, CHANGES, USER_EVENT
from user_service.observability.logging import set_up_logs
from user_service.observability.metrics import Metrics
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings
from user_service.values.timestamps import parse_rfc3339

NO_SINK: Final = "K_SINK, EVENT_SINK_URL: no sink is set; set one of them"
TYPES: Final = frozenset(
    {
        *(USER_EVENT.format(kind) for kind in CHANGES),
        *BATCH_OPERATIONS,
        *(BATCH_RESULT.format(operation) for operation in BATCH_OPERATIONS.values()),
    }
)


def run(
    environ: Mapping[str, str],
    *,
    action: str,
    since: str | None,
    until: str | None,
    types: Sequence[str],
    after: int | None,
    dead_letters: Sequence[Path],
    dry_run: bool,
) -> int:
    """1 when the sink refused events. Raises ConfigurationError, CommandFailed."""
    selection = Selection(parse_time("--since", since), parse_time("--until", until), parse_types(types))
    if dead_letters:
        settings, letters = Settings.load(environ), read_files(dead_letters)
        set_up_logs(level=settings.log_level, log_format=settings.log_format)
        replay = asyncio.run(replay_letters(require_sink(settings), letters, selection, dry_run=dry_run))
    elif since is None:
        raise ConfigurationError("events replay: --since TIME, or --dead-letters FILE, says which events")
    else:
        with open_database(environ) as settings:
            set_up_logs(level=settings.log_level, log_format=settings.log_format)
            replay = asyncio.run(replay_changes(require_sink(settings), selection, after=after, dry_run=dry_run))
    if dry_run:
        print(f"{replay.published} events would be posted")
    else:
        print(f"{replay.published} events published, {replay.refused} refused")
    return EXIT_FAILED if replay.refused else 0


def parse_time(option: str, text: str | None) -> datetime | None:
    try:
        return parse_rfc3339(text) if text is not None else None
    except ValueError:
        raise ConfigurationError(f"{option}: expected a time as 2026-01-31T12:00:00Z") from None


def parse_types(texts: Sequence[str]) -> frozenset[str]:
    """Types of events, of which those of changes may be given in short."""
    types = {USER_EVENT.format(text) if text in CHANGES else text for text in texts}
    if unknown := types - TYPES:
        raise ConfigurationError(
            f"--type: {', '.join(sorted(unknown))} is none of {', '.join(CHANGES)}, or of the types in docs/events.md"
        )
    return frozenset(types)


def require_sink(settings: Settings) -> Settings:
    if settings.sink_url is None:
        raise ConfigurationError(NO_SINK)
    return settings


def read_files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The events in files; `-` is standard input, a folder a Secret that is mounted."""
    letters: list[dict[str, Any]] = []
    for path in paths:
        try:
            letters += read_dead_letters(orjson.loads(read_file(path)))
        except OSError as error:
            raise ConfigurationError(f"{path}: can't be read ({error.strerror})") from None
        except orjson.JSONDecodeError:
            raise ConfigurationError(f"{path}: not JSON") from None
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from None
    return letters


def read_file(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    return (path / "event" if path.is_dir() else path).read_bytes()


async def replay_changes(settings: Settings, selection: Selection, *, after: int | None, dry_run: bool) -> Replay:
    pool = ReadPool(settings, Metrics(), size=1)
    sink = open_sink(settings)
    replay = Replay(None if dry_run else sink)
    try:
        await replay.post_changes(Feed(pool), selection, after=after)
    except SinkFailing as error:
        hint = f"The same command with `--after {error.position}` continues."
        raise CommandFailed(describe_stop(replay, error) + hint) from None
    except DatabaseUnavailable as error:
        raise CommandFailed(describe_failure(error)) from None
    finally:
        await sink.close()
        await pool.close()
    return replay


async def replay_letters(
    settings: Settings, letters: Sequence[dict[str, Any]], selection: Selection, *, dry_run: bool
) -> Replay:
    """Posts one after the other, so that they keep their order."""
    sink = open_sink(settings)
    replay = Replay(None if dry_run else sink)
    try:
        for letter in letters:
            if selection.includes(letter, read_time(letter)):
                await replay.post(letter)
    except SinkFailing as error:
        hint = "Run the command again: consumers know an event by its id."
        raise CommandFailed(describe_stop(replay, error) + hint) from None
    finally:
        await sink.close()
    return replay


def read_time(letter: dict[str, Any]) -> datetime | None:
    try:
        return parse_rfc3339(letter["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


def describe_stop(replay: Replay, error: SinkFailing) -> str:
    return f"The sink does not take events ({error.reason}); {replay.published} were published. "
