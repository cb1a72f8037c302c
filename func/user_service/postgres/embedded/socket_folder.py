"""The folder of PostgreSQL's Unix socket, closed to all but the server's account."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from user_service.postgres.embedded.wheel import Account, own

SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET_BYTES = 103  # sun_path has 104 bytes on macOS and 108 on Linux, its closing NUL included


def socket_folder(data_dir: Path, folder: Path) -> Path:
    """Where clients find it: the data folder, or a short-named one that a link in DATA_DIR names."""
    link = data_dir / "postgres.socket"
    return link.readlink() if link.is_symlink() else folder


def make_socket_folder(data_dir: Path, folder: Path, account: Account | None) -> Path:
    link = data_dir / "postgres.socket"
    if fits(folder):
        link.unlink(missing_ok=True)
        return folder
    if link.is_symlink() and private(link.readlink(), account):
        return link.readlink()
    link.unlink(missing_ok=True)
    bases = ["/tmp"] if account is not None else [tempfile.gettempdir(), "/tmp"]  # noqa: S108
    base = next(base for base in bases if fits(Path(base, "user-service-12345678")))
    short = Path(tempfile.mkdtemp(prefix="user-service-", dir=base))
    own(short, account)
    link.symlink_to(short)
    return short


def url_of(sockets: Path, database: str) -> str:
    """The libpq URI. It names the port, because PGPORT would count otherwise."""
    return f"postgresql://postgres@/{database}?host={quote(str(sockets))}&port=5432"


def fits(folder: Path) -> bool:
    """Whether a socket address can hold the path and a URL carry it: `,` and `:` part hosts and ports."""
    path = str(folder / SOCKET)
    return len(os.fsencode(path)) <= LONGEST_SOCKET_BYTES and not {",", ":"} & set(path)


def private(folder: Path, account: Account | None) -> bool:
    """Whether the folder is still ours alone: names in /tmp can be taken by anybody once they are free."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    uid = os.geteuid() if account is None else account.uid
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700


def discard_socket_folder(data_dir: Path) -> None:
    link = data_dir / "postgres.socket"
    if link.is_symlink():
        with suppress(OSError):  # a cleaner of /tmp may have been faster
            link.readlink().rmdir()
        link.unlink()
