"""`user-service keys api`: makes an API key with a name and scopes, and lists those of API_KEYS, which are hashes."""

import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from user_service.errors import CommandFailed, ConfigurationError
from user_service.settings import PARSERS, SettingsSource
from user_service.values.api_keys import (
    NamedKey,
    check_name,
    format_api_keys,
    hash_key,
    key_fingerprint,
    parse_api_keys,
    parse_scopes,
)
from user_service.values.timestamps import format_rfc3339, parse_rfc3339

# It lets scanners of secrets find a key that was published.
KEY_PREFIX: Final = "usk_"
KEY_BYTES: Final = 32
DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)
DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def run(
    environ: Mapping[str, str], *, name: str | None, scopes: str | None, expires: str | None, file: Path | None
) -> int:
    """Lists the keys, or prints a new one and the value of API_KEYS with it, which `file` gets if it is named.

    Raises ConfigurationError, CommandFailed.
    """
    present = read_file(file) if file is not None else read_setting(environ)
    if name is None:
        if scopes is not None or expires is not None:
            raise ConfigurationError("keys api: name the key that --scopes and --expires are for")
        list_keys(present)
        return 0
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    keys = (*present, make_entry(key, name, scopes, expires))
    if file is not None:
        replace_file(file, format_api_keys(keys))
        print(key)
    else:
        print(key, format_api_keys(keys), sep="\n")
    print(
        f"The first line is the key of {name}: give it to its client; it is shown once."
        + ("" if file is not None else " The second line is the new value of API_KEYS."),
        file=sys.stderr,
    )
    return 0


def read_setting(environ: Mapping[str, str]) -> tuple[NamedKey, ...]:
    source = SettingsSource(environ)
    keys: tuple[NamedKey, ...] | None = source.read("api_keys", PARSERS["api_keys"])
    if source.faults:
        raise ConfigurationError("\n".join(source.faults))
    return keys or ()


def read_file(file: Path) -> tuple[NamedKey, ...]:
    """The keys of a file of API_KEYS; none where it does not exist."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} can't be read ({type(error).__name__}).") from None
    try:
        return parse_api_keys(text) if text else ()
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def replace_file(file: Path, text: str) -> None:
    """In one step: a running service that reads the file gets the former or the new keys."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        draft.touch(mode=mode)
        draft.write_text(text + "\n", encoding="ascii")
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CommandFailed(f"{file} can't be written ({error.strerror}).") from None


def make_entry(key: str, name: str, scopes: str | None, expires: str | None) -> NamedKey:
    if scopes is None:
        raise ConfigurationError("keys api: --scopes is missing, as --scopes users:read,users:write")
    try:
        check_name(name)
        granted = parse_scopes([scope.strip() for scope in scopes.split(",")])
        return NamedKey(name, hash_key(key.encode()), granted, parse_end(expires) if expires is not None else None)
    except ValueError as error:
        raise ConfigurationError(f"keys api: {error}") from None


def parse_end(text: str) -> datetime:
    """A time in the future: days from now, as `90d`, a date or a time. Raises ValueError."""
    now = datetime.now(UTC).replace(microsecond=0)
    if days := DAYS.fullmatch(text):
        moment = now + timedelta(days=int(days[1]))
    else:
        try:
            moment = parse_rfc3339(f"{text}T00:00:00Z" if DATE.fullmatch(text) else text)
        except ValueError:
            raise ValueError(
                "--expires must be days as 90d, a date as 2027-01-31, or a time in RFC 3339 format"
            ) from None
    if moment <= now:
        raise ValueError("--expires must be in the future")
    return moment


def list_keys(keys: Sequence[NamedKey]) -> None:
    now = datetime.now(UTC)
    rows = [("NAME", "FINGERPRINT", "EXPIRES", "SCOPES")]
    for key in keys:
        end = "never" if key.expires is None else format_rfc3339(key.expires)
        expired = key.expires is not None and key.expires <= now
        rows.append(
            (
                key.name,
                key_fingerprint(key.digest),
                f"{end} (expired)" if expired else end,
                ",".join(sorted(key.scopes)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
