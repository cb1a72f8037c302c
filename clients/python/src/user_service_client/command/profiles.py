"""Which service, and its key: a profile, the environment, or the service of this machine.

Profiles are in a file of mode 0600; their keys are in the keyring of the system where the package `keyring` finds one,
else in the same file. No command takes a key as an argument.
"""

from __future__ import annotations

import getpass
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from user_service_client.client import Client
from user_service_client.command.failures import CommandFailed
from user_service_client.steps import Retry

T = TypeVar("T")
KEYRING_SERVICE = "user-service"
DEFAULT = "default"


@dataclass(frozen=True)
class Profiles:
    """The profiles in `file`: for each name the address, and the key if no keyring has it."""

    file: Path

    @classmethod
    def of_this_account(cls, environ: Mapping[str, str]) -> Profiles:
        base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home(), ".config")
        return cls(Path(base, "user-service", "profiles.json"))

    def load(self) -> dict[str, dict[str, str]]:
        """Raises CommandFailed if other accounts can read the file, or if it is no file of profiles."""
        try:
            mode = self.file.stat().st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise CommandFailed(f"{self.file}: other accounts can read it; run: chmod 600 {self.file}")
            profiles: Any = json.loads(self.file.read_text(encoding="utf-8"))
            return {str(name): {str(key): str(text) for key, text in entry.items()} for name, entry in profiles.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CommandFailed(f"{self.file}: can't be read ({error.strerror})") from None
        except (ValueError, AttributeError):
            raise CommandFailed(f"{self.file}: not a file of profiles; correct or remove it") from None

    def save(self, profiles: Mapping[str, Mapping[str, str]]) -> None:
        """Replaces the file as a whole; it is never readable for others."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replace_private(self.file) as opened:
            opened.write(json.dumps(profiles, indent=2).encode() + b"\n")

    def add(self, name: str, url: str, key: str, *, in_file: bool) -> str:
        """Returns where the key is."""
        entry = {"url": url}
        profiles = self.load()
        is_in_keyring = not in_file and store_in_keyring(name, key)
        if not is_in_keyring:
            entry["api_key"] = key
        self.save({**profiles, name: entry})
        return "the keyring" if is_in_keyring else str(self.file)

    def remove(self, name: str) -> None:
        profiles = self.load()
        if profiles.pop(name, None) is None:
            raise CommandFailed(f"--profile: there is no profile {name}")
        remove_from_keyring(name)
        self.save(profiles)

    def find_key(self, name: str, entry: Mapping[str, str]) -> str:
        key = entry.get("api_key") or read_keyring(name)
        if not key:
            raise CommandFailed(
                f"The profile {name} has no key; run: users profile add {name} {entry.get('url', 'URL')}"
            )
        return key


@contextmanager
def open_private(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which only this account can read; it is removed unless it is written to its end. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def replace_private(path: Path) -> Iterator[IO[bytes]]:
    """The same, in place of the file that was there before, which stays until the new one is complete."""
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)
    with open_private(draft) as opened:
        yield opened
        opened.close()
        draft.replace(path)


def open_client(environ: Mapping[str, str], profile: str | None, url: str | None, retry: Retry) -> Client:
    """The client of a profile, of the environment, of the profile `default`, or of the service on this machine.

    Raises CommandFailed.
    """
    profiles = Profiles.of_this_account(environ)
    name = profile or environ.get("USERS_PROFILE")
    environ_key = environ.get("USER_SERVICE_API_KEY")
    if (
        name is None
        and not environ_key
        and not environ.get("USER_SERVICE_URL")
        and DEFAULT in (known := profiles.load())
    ):
        name = DEFAULT if url in {None, known[DEFAULT].get("url")} else None
    if name is not None:
        entry = profiles.load().get(name)
        if entry is None or not entry.get("url"):
            raise CommandFailed(f"--profile: there is no profile {name}; run: users profile add {name} URL")
        if url not in {None, entry["url"]}:
            raise CommandFailed("--url: the profile has another address; its key is not sent elsewhere")
        return make_client(entry["url"], profiles.find_key(name, entry), retry)
    url = url or environ.get("USER_SERVICE_URL") or f"http://localhost:{environ.get('PORT') or 3002}"
    key = environ_key or read_local_key(environ, url)
    if not key:
        raise CommandFailed(f"No key for {url}: run `users profile add NAME {url}`, or set USER_SERVICE_API_KEY")
    return make_client(url, key, retry)


def make_client(url: str, key: str, retry: Retry) -> Client:
    try:
        return Client(url, api_key=key, retry=retry)
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def read_local_key(environ: Mapping[str, str], url: str) -> str | None:
    """The key that the service has made for development on this machine, for an address of this machine only."""
    if not url.startswith(("http://localhost:", "http://127.0.0.1:", "http://[::1]:")):
        return None
    folder = environ.get("DATA_DIR") or Path(environ.get("HOME") or Path.home(), ".local/share/user-service")
    with suppress(OSError, UnicodeDecodeError):
        return Path(folder, "internal-api-key").read_text(encoding="ascii").strip()
    return None


def ask_key() -> str:
    """The key from a prompt that does not show it, or the first line of standard input."""
    key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise CommandFailed("No key was given")
    return key.strip()


def store_in_keyring(name: str, key: str) -> bool:
    """False if this machine has no keyring."""

    def store(keyring: Any) -> bool:
        keyring.set_password(KEYRING_SERVICE, name, key)
        return bool(keyring.get_password(KEYRING_SERVICE, name) == key)

    return use_keyring(store) or False


def read_keyring(name: str) -> str | None:
    return use_keyring(lambda keyring: cast("str | None", keyring.get_password(KEYRING_SERVICE, name)))


def remove_from_keyring(name: str) -> None:
    use_keyring(lambda keyring: keyring.delete_password(KEYRING_SERVICE, name))


def use_keyring(use: Callable[[Any], T]) -> T | None:
    """What `use` makes of the module `keyring`; None if it is not installed, or fails."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        return use(keyring)
    except (KeyringError, RuntimeError):
        return None
