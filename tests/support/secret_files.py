"""Secrets as files, as a cluster mounts them: every file is a link through `..data`, which is swapped at once."""

from itertools import count
from pathlib import Path


class SecretFolder:
    def __init__(self, folder: Path, **secrets: str) -> None:
        self.folder = folder
        self.versions = count(1)
        self.secrets: dict[str, str] = {}
        folder.mkdir()
        self.swap(**secrets)

    def swap(self, **changed: str) -> None:
        """Changes these secrets, all at one moment; the others stay."""
        self.secrets |= changed
        version = self.folder / f"..version-{next(self.versions)}"
        version.mkdir()
        for name, text in self.secrets.items():
            (version / name).write_text(text + "\n")
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")
        for name in self.secrets:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data", name))

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to read them, and nothing in their place."""
        return {"SECRETS_DIR": str(self.folder), **dict.fromkeys(("ENCRYPTION_KEY", "INTERNAL_API_KEY"), "")}
