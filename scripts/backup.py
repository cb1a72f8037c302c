"""Back the database up into one file that proves itself, and restore such a file into an empty database.

`backup` dumps one snapshot with pg_dump and writes beside it, as FILE.json, the SHA-256 of the file and, of the same
snapshot, the rows and a checksum of each table. `restore` compares all of it. Personal data is encrypted in the
database and stays so in the dump; no key is in it. Needs psql, pg_dump and pg_restore as new as the server, on PATH or
in PG_BIN.
"""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

# Times, floats and bytes look the same on every server, so that checksums can be compared.
SESSION = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'; SET extra_float_digits = 1;"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename;"
FORMAT = 1


class BackupError(Exception):
    """Says what went wrong and what to do about it."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["backup", "restore", "verify"])
    parser.add_argument("file", type=Path, help="the dump; FILE.json beside it describes it")
    options = parser.parse_args(arguments)
    try:
        {"backup": backup, "restore": restore, "verify": verify}[options.action](options.file)
    except BackupError as error:
        print(f"{options.action}: {error}", file=sys.stderr)
        return 1
    return 0


def backup(file: Path) -> None:
    if file.exists():
        raise BackupError(f"{file} exists; a backup never overwrites one")
    url, environment = connection()
    partial = file.with_name(file.name + ".partial")
    try:
        with session(url, environment) as ask:
            [snapshot] = ask("SELECT pg_export_snapshot();")
            [version] = ask("SHOW server_version;")
            tables = {table: fingerprint(ask, table) for table in ask(TABLES)}
            if not tables:
                raise BackupError("the database has no table; is DATABASE_URL the right one?")
            dump = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={partial}"]
            run("pg_dump", *dump, f"--dbname={url}", environment=environment)
        run("pg_restore", "--list", str(partial), environment=environment)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = {"format": FORMAT, "created": created, "server_version": version, "sha256": sha256(file)}
    manifest_path(file).write_text(json.dumps(head | {"tables": tables}, indent=2) + "\n")
    rows = sum(table["rows"] for table in tables.values())
    print(
        f"{file}: {rows} rows in {len(tables)} tables, {file.stat().st_size} bytes; {manifest_path(file)} describes it"
    )
    print("The encryption keys are not in it: keep them, apart from it (docs/backup-and-recovery.md).")


def verify(file: Path) -> dict[str, Any]:
    """The description of a dump that is whole; a BackupError for one that is not."""
    try:
        manifest: dict[str, Any] = json.loads(manifest_path(file).read_text())
    except FileNotFoundError as error:
        raise BackupError(f"{error.filename} is missing; without it nothing proves the dump") from error
    if manifest["format"] != FORMAT:
        raise BackupError(f"{manifest_path(file)} is of format {manifest['format']}, this script reads {FORMAT}")
    if not file.exists() or sha256(file) != manifest["sha256"]:
        raise BackupError(f"{file} is not the file that was written: its SHA-256 differs; take another backup")
    print(f"{file} is whole, of {manifest['created']}")
    return manifest


def restore(file: Path) -> None:
    manifest = verify(file)
    url, environment = connection()
    with session(url, environment) as ask:
        if present := ask(TABLES):
            raise BackupError(f"the database is not empty ({', '.join(present[:5])}); create a new one for the restore")
    options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", f"--dbname={url}"]
    run("pg_restore", *options, str(file), environment=environment)
    with session(url, environment) as ask:
        found = {table: fingerprint(ask, table) for table in ask(TABLES)}
    different = [t for t in manifest["tables"] | found if manifest["tables"].get(t) != found.get(t)]
    if different:
        raise BackupError(f"these tables are not what was backed up: {', '.join(sorted(different))}")
    psql = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={url}"]
    run("psql", *psql, "--command=ANALYZE", environment=environment)
    print(f"restored {sum(t['rows'] for t in found.values())} rows in {len(found)} tables; all checksums agree")
    print("Next: start the service with the keys of that time; `user-service doctor` says whether they fit.")


def manifest_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def connection() -> tuple[str, dict[str, str]]:
    """The URL without its password, and an environment that carries it: arguments are there for everybody to see."""
    url = os.environ.get("DATABASE_URL", "")
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise BackupError("set DATABASE_URL to the database: postgresql://user:password@host:5432/name")
    environment = dict(os.environ)
    environment.pop("DATABASE_URL")
    if parts.password is not None:
        environment["PGPASSWORD"] = unquote(parts.password)
        account, _, host = parts.netloc.rpartition("@")
        url = urlunsplit(parts._replace(netloc=f"{account.partition(':')[0]}@{host}"))
    return url, environment


def program(name: str) -> str:
    folder = os.environ.get("PG_BIN")
    return str(Path(folder) / name) if folder else name


def run(name: str, *arguments: str, environment: dict[str, str]) -> None:
    command = [program(name), *arguments]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BackupError(f"{name} is not installed; it comes with PostgreSQL's client programs") from error
    if result.returncode:
        raise BackupError(f"{name} failed: {result.stderr.strip()[-1000:]}")


class Session:
    """One psql in one read-only transaction, so that every answer is of the same snapshot."""

    END = "--end-of-answer--"

    def __init__(self, process: "subprocess.Popen[str]", stdin: IO[str], stdout: IO[str]) -> None:
        self.process, self.stdin, self.stdout = process, stdin, stdout

    def __call__(self, statement: str) -> list[str]:
        try:
            self.stdin.write(f"{statement}\n\\echo {self.END}\n")
            self.stdin.flush()
        except BrokenPipeError:
            return self.failed()
        lines = []
        for line in self.stdout:
            if line.strip() == self.END:
                return lines
            lines.append(line.rstrip("\n"))
        return self.failed()

    def failed(self) -> list[str]:
        assert self.process.stderr is not None
        raise BackupError(f"psql: {self.process.stderr.read().strip()[-500:]}")


@contextmanager
def session(url: str, environment: dict[str, str]) -> Iterator[Session]:
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", f"--dbname={url}"]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            [program("psql"), *options], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
    except FileNotFoundError as error:
        raise BackupError("psql is not installed; it comes with PostgreSQL's client programs") from error
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask = Session(process, process.stdin, process.stdout)
        ask(f"{SESSION} BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
        yield ask
        process.stdin.close()


def fingerprint(ask: Session, table: str) -> dict[str, Any]:
    """Rows and checksum of a table; the sum of the rows' hashes does not depend on their order."""
    quoted = '"' + table.replace('"', '""') + '"'
    [row] = ask(f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {quoted} AS t;")
    rows, checksum = row.split("|")
    return {"rows": int(rows), "checksum": checksum}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
