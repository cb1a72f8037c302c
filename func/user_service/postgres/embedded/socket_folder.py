"""The folder of PostgreSQL's Unix socket, accessible to the server's account only."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from user_service.postgres.embedded.wheel import Account, change_owner

SOCKET = ".s.PGSQL.5432"
MAX_SOCKET_BYTES = 103  # sun_path has 104 bytes on macOS and 108 on Linux, its closing NUL included


def socket_folder(data_dir: Path, folder: Path) -> Path:
    """The data folder, or the folder with a short path that a link in DATA_DIR points to."""
    link = data_dir / "postgres.socket"
    return link.readlink() if link.is_symlink() else folder


def make_socket_folder(data_dir: Path, folder: Path, account: Account | None) -> Path:
    link = data_dir / "postgres.socket"
    if fits(folder):
        link.unlink(missing_ok=True)
        return folder
    if link.is_symlink() and is_private(link.readlink(), account):
        return link.readlink()
    link.unlink(missing_ok=True)
    bases = ["/tmp"] if account is not None else [tempfile.gettempdir(), "/tmp"]  # noqa: S108
    base = next(base for base in bases if fits(Path(base, "user-service-12345678")))
    short = Path(tempfile.mkdtemp(prefix="user-service-", dir=base))
    change_owner(short, account)
    link.symlink_to(short)
    return short


def socket_url(sockets: Path, database: str) -> str:
    """The libpq URI. It contains the port, because PGPORT would apply otherwise."""
    return f"postgresql://postgres@/{database}?host={quote(str(sockets))}&port=5432"


def fits(folder: Path) -> bool:
    """Whether the path fits into a socket address and a URL, where `,` and `:` separate hosts and ports."""
    path = str(folder / SOCKET)
    return len(os.fsencode(path)) <= MAX_SOCKET_BYTES and not {",", ":"} & set(path)


def is_private(folder: Path, account: Account | None) -> bool:
    """Whether the folder still belongs to the account only: any account can create a free name in /tmp."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    uid = os.geteuid() if account is None else account.uid
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700


def discard_socket_folder(data_dir: Path) -> None:
    link = data_dir / "postgres.socket"
    if link.is_symlink():
        with suppress(OSError):  # /tmp may have been cleaned
            link.readlink().rmdir()
        link.unlink()
