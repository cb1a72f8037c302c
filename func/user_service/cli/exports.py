"""`user-service export`: writes all users to a file, from a running service."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from user_service.cli.http_client import PIECE_BYTES, ServiceClient, open_client
from user_service.cli.progress import open_progress
from user_service.errors import ConfigurationError
from user_service.values.media_types import USER_FILES


def run(
    environ: Mapping[str, str],
    *,
    file: Path,
    file_format: str | None,
    include_deleted: bool,
    url: str | None,
    api_key: str | None,
) -> int:
    """Writes NDJSON or CSV to `file`, which appears when the export is complete; to standard output for `-`.

    Raises ConfigurationError, RequestRefused.
    """
    client = open_client(url, api_key, environ)
    file_format = file_format or ("csv" if file.suffix.lower() == ".csv" else "ndjson")
    query = "?include=deleted" if include_deleted else ""
    draft = file.with_name(file.name + ".part")
    try:
        if str(file) == "-":
            count = asyncio.run(write_users(client, query, file_format, sys.stdout.buffer))
        else:
            with draft.open("wb") as stream:
                count = asyncio.run(write_users(client, query, file_format, stream))
            draft.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be written ({error.strerror})") from None
    except KeyboardInterrupt:
        print(f"\nStopped. {draft} has the users that were received.", file=sys.stderr)
        raise
    print(f"{count:,} users exported.", file=sys.stderr)
    return 0


async def write_users(client: ServiceClient, query: str, file_format: str, file: BinaryIO) -> int:
    """Writes the export to a file; returns the number of users: that of lines, without the header of CSV."""
    count = -1 if file_format == "csv" else 0
    headers = {"Accept": USER_FILES[file_format]}
    with open_progress(sys.stderr) as progress:
        async with client.request("GET", f"/export{query}", headers=headers) as response:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                file.write(piece)
                count += piece.count(b"\n")
                progress.show(count, None, "users")
    return count
