"""`user-service export`: writes all users to a file, from a running service."""

import asyncio
import sys
from pathlib import Path
from typing import BinaryIO

from user_service.cli.http_client import PIECE_BYTES, ServiceClient
from user_service.cli.progress import progress_on
from user_service.errors import ConfigurationError


def export_users(client: ServiceClient, path: Path, *, include_deleted: bool) -> int:
    """Writes NDJSON to `path`, which appears when the export is complete; to standard output for `-`.

    Raises ConfigurationError, RequestRefused.
    """
    query = "?include=deleted" if include_deleted else ""
    draft = path.with_name(path.name + ".part")
    try:
        if str(path) == "-":
            count = asyncio.run(write_users(client, query, sys.stdout.buffer))
        else:
            with draft.open("wb") as file:
                count = asyncio.run(write_users(client, query, file))
            draft.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be written ({error.strerror})") from None
    except KeyboardInterrupt:
        print(f"\nStopped. {draft} holds the users that had arrived.", file=sys.stderr)
        raise
    print(f"{count:,} users exported.", file=sys.stderr)
    return 0


async def write_users(client: ServiceClient, query: str, file: BinaryIO) -> int:
    """Writes the export to a file; returns the number of users."""
    count = 0
    with progress_on(sys.stderr) as progress:
        async with client.request("GET", f"/export{query}") as response:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                file.write(piece)
                count += piece.count(b"\n")
                progress.show(count, None, "users")
    return count
