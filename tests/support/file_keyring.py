"""A keyring in a file, for tests on machines that have none; PYTHON_KEYRING_BACKEND names it."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend


class FileKeyring(KeyringBackend):
    """Keeps passwords in the file that KEYRING_FILE names."""

    priority = 1  # type: ignore[assignment]

    def load(self) -> dict[str, str]:
        file = Path(os.environ["KEYRING_FILE"])
        passwords: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return passwords

    def save(self, passwords: dict[str, str]) -> None:
        Path(os.environ["KEYRING_FILE"]).write_text(json.dumps(passwords))

    def get_password(self, service: str, username: str) -> str | None:
        return self.load().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.save({**self.load(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        passwords = self.load()
        del passwords[f"{service}/{username}"]
        self.save(passwords)
