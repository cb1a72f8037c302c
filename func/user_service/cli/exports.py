"""`user-service export`: writes all users to a file, from a running service."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from user_service.cli.http_client import PIECE_BYTES, ServiceClient, open_client
from user_service.cli.progress import open_progress
from user_service.errors import ConfigurationError


def run(environ: Mapping[str, str], *, file: Path, include_deleted: bool, url: str | None, api_key: str | None) -> int:
    """Writes NDJSON to `file`, which appears when the export is complete; to standard output for `-`.

    Raises ConfigurationError, RequestRefused.
    """
    client = open_client(url, api_key, environ)
    query = "?include=deleted" if include_deleted else ""
    draft = file.with_name(file.name + ".part")
    try:
        if str(file) == "-":
            count = asyncio.run(write_users(client, query, sys.stdout.buffer))
        else:
            with draft.open("wb") as stream:
                count = asyncio.run(write_users(client, query, stream))
            draft.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be written ({error.strerror})") from None
    except KeyboardInterrupt:
        print(f"\nStopped. {draft} has the users that were received.", file=sys.stderr)
        raise
    print(f"{count:,} users exported.", file=sys.stderr)
    return 0


async def write_users(client: ServiceClient, query: str, file: BinaryIO) -> int:
    """Writes the export to a file; returns the number of users."""
    count = 0
    with open_progress(sys.stderr) as progress:
        async with client.request("GET", f"/export{query}") as response:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                file.write(piece)
                count += piece.count(b"\n")
                progress.show(count, None, "users")
    return count
