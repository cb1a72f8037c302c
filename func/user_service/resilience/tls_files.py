"""Files for TLS that a URL of PostgreSQL or Redis names: certificates, keys and revocation lists."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

TRUST_FILES: Final = frozenset({"sslrootcert", "sslcrl", "ssl_ca_certs"})
OWN_CERTIFICATES: Final = frozenset({"sslcert", "ssl_certfile"})
PARAMETERS: Final = TRUST_FILES | OWN_CERTIFICATES | {"sslkey", "ssl_keyfile"}


def named_files(url: str) -> Iterator[tuple[str, Path]]:
    """The parameters of a URL that name files for TLS, with the files."""
    for name, path in parse_qsl(urlsplit(url).query):
        if name in PARAMETERS:
            yield name, Path(path)


def find_unreadable_file(url: str, setting: str) -> str | None:
    """What is wrong with the first file that can't be read, with the remedy; None where all can be read."""
    for name, path in named_files(url):
        try:
            path.open("rb").close()
        except OSError as error:
            return (
                f"{setting}: {name} names the file {path}, which can't be read ({type(error).__name__}). Mount the "
                "file, or correct the path."
            )
    return None
