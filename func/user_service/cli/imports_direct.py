"""Files of users straight on the database of the settings, without a running service."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import orjson

from user_service.bootstrap import Resources
from user_service.cli.database import open_database
from user_service.cli.dry_run import dry_failures, readable_chunks
from user_service.cli.imports import Summary, TransferRefused
from user_service.errors import ServiceError
from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.users.batch.bodies import CreateBatch
from user_service.users.batch.runner import BatchRunner
from user_service.users.change_log import Origin
from user_service.users.imports.parsers import Record, make_parser
from user_service.users.imports.runner import ImportRunner
from user_service.users.unit_of_work import Storage

COUNTS: Final = ("created", "updated", "skipped", "failed")
MAX_FAILURE_PIECES: Final = 10
T = TypeVar("T")


class DirectTarget:
    """The database of the environment's settings, or the embedded one."""

    def send(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str, key: str) -> Summary:
        async def work(imports: ImportRunner, storage: Storage) -> Summary:
            origin = cli_origin()
            begun = await imports.begin(origin, file_format=file_format, on_conflict=on_conflict, key=key)
            await imports.run(begun, streamed(pieces, file_format), origin)
            found = await imports.find(begun["id"])
            failures = await first_failures(imports, begun["id"]) if found["failed"] else []
            return Summary({name: found[name] for name in COUNTS}, failures)

        return run(work)

    def rehearse(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str) -> Summary:
        async def work(imports: ImportRunner, storage: Storage) -> Summary:
            counts: Counter[str] = Counter()
            failures: list[dict[str, Any]] = []
            for numbers, records, bad in readable_chunks(pieces, file_format):
                items: list[Any] = [{"data": record} for record in records]
                batch = CreateBatch(dry_run=True, on_conflict=on_conflict, items=items)  # type: ignore[arg-type]
                answer = await imports.batches.run("create", batch, cli_origin())
                counts.update(result["status"] for result in answer.items)
                counts["failed"] += len(bad)
                failures += bad + dry_failures(numbers, answer.items)
            return Summary(counts, failures)

        return run(work)

    def fetch(self, *, deleted: bool) -> Iterator[bytes]:
        """Runs the loop a step at a time, so that the caller writes while the cursor waits."""
        with asyncio.Runner() as runner, open_database(os.environ) as settings:
            resources = Resources(settings)
            storage = open_storage(resources)
            try:
                runner.run(resources.verify())
                stream = storage.export(deleted=deleted)
                while (piece := runner.run(following(stream))) is not None:
                    yield piece
            except ServiceError as error:
                raise TransferRefused(error.detail) from None
            finally:
                runner.run(close(resources, storage))


def run(work: Callable[[ImportRunner, Storage], Awaitable[T]]) -> T:
    with open_database(os.environ) as settings:
        return asyncio.run(with_parts(Resources(settings), work))


async def with_parts(resources: Resources, work: Callable[[ImportRunner, Storage], Awaitable[T]]) -> T:
    storage = open_storage(resources)
    try:
        await resources.verify()
        batches = BatchRunner(storage, resources.reader, resources.jobs)
        return await work(ImportRunner(batches), storage)
    except ServiceError as error:
        faults = "".join(f"\n- {fault.pointer} {fault.detail}" for fault in error.errors)
        raise TransferRefused(f"{error.code}: {error.detail}{faults}") from None
    finally:
        await close(resources, storage)


def open_storage(resources: Resources) -> Storage:
    return Storage(lambda: resources.settings, resources.keys, resources.cache, resources.metrics, size=15)


async def close(resources: Resources, storage: Storage) -> None:
    await storage.close()
    await resources.close()


async def following(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


async def streamed(pieces: Iterator[bytes], file_format: str) -> AsyncIterator[Sequence[Record]]:
    reader = make_parser(file_format)
    for piece in pieces:
        yield list(reader.feed(piece))
        await asyncio.sleep(0)
    yield list(reader.end())


async def first_failures(imports: ImportRunner, import_id: Any) -> list[dict[str, Any]]:
    failures: list[dict[str, Any]] = []
    pieces = 0
    async for piece in imports.failures(import_id):
        failures += [orjson.loads(line) for line in piece.splitlines()]
        pieces += 1
        if pieces == MAX_FAILURE_PIECES:
            break
    return failures


def cli_origin() -> Origin:
    return Origin("command-line", choose_request_id(None).decode(), continue_trace(None).decode())
