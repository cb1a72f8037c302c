"""An import of many users as one stream: its rate beside that of batches, its time, and the most memory it took."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path

from benchmarks.batch import created_per_second, other_database
from benchmarks.compare import Comparison
from benchmarks.errors import BenchmarkError
from benchmarks.people import USERS, person
from benchmarks.plan import Plan
from benchmarks.processes import LOOPBACK
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, service

LINES_A_PIECE = 1_000
LONGEST_SECONDS = 1_800


def written(file: Path, count: int) -> Path:
    with file.open("w") as lines:
        for number in range(count):
            lines.write(json.dumps(person(number, series="import")) + "\n")
    return file


def pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        while piece := b"".join(islice(lines, LINES_A_PIECE)):
            yield piece


def imported(server: Server, file: Path) -> dict[str, int]:
    """The answer to the whole file. Raises BenchmarkError."""
    with server.client() as client:
        headers = {**client.headers, "Content-Type": "application/x-ndjson"}
    connection = HTTPConnection(LOOPBACK, server.port, timeout=LONGEST_SECONDS)
    connection.request("POST", f"{USERS}/imports", pieces(file), headers, encode_chunked=True)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.status != 202:
        raise BenchmarkError(f"the import answered {response.status}: {content[:500].decode(errors='replace')}")
    answer: dict[str, int] = json.loads(content)
    return answer


def peak_mib(pid: int) -> float:
    """The most memory that the process has had, resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(bench: Bench, plan: Plan) -> list[Row]:
    file = written(bench.folder / "users.ndjson", plan.listed_users)
    with other_database(bench, "imports") as empty, service(empty) as server:
        batches = created_per_second(server, plan.batches)
        batches()
        rates = [batches() for _ in range(plan.batch_rounds)]
        started = time.perf_counter()
        answer = imported(server, file)
        seconds = time.perf_counter() - started
        # Among as many users as the import has left, and in the phase of the host that it ended in.
        rates += [batches() for _ in range(plan.batch_rounds)]
        if answer["created"] != plan.listed_users:
            raise BenchmarkError(f"the import created {answer['created']} of {plan.listed_users} users")
        peak = peak_mib(server.pid)
    rate = plan.listed_users / seconds
    label = f"import of {plan.listed_users:,} in {seconds:.0f} s (baseline: batches)"
    return [
        Row("import.rate", label, "users/s", Comparison(rates, [rate] * len(rates)), rate),
        Row("import.peak", "    peak memory, the batches included", "MiB", Comparison([peak], [peak]), peak),
    ]
