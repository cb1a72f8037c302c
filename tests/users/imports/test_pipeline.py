"""The pipeline of imports, alone: chunks are keys and events here, and nothing is written."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from user_service.errors import NotFound
from user_service.users.imports.pipeline import CLEAN_CHUNKS, ImportMoved, OutOfTurn, Pipeline, Turn

pytestmark = pytest.mark.anyio


@dataclass
class FakeChunk:
    """A chunk that is applied as its test says."""

    name: int
    keys: frozenset[str] = frozenset()
    is_clean: bool = True
    may_end: asyncio.Event = field(default_factory=asyncio.Event)


class Recorder:
    """Applies chunks and records what has happened, as `started 1`, `first 2`, `again 2`, `committed 1`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failing: dict[int, Exception] = {}

    async def apply(self, chunk: FakeChunk, turn: Turn) -> None:
        while True:
            await turn.start()
            self.events.append(f"{'first' if turn.started_first else 'started'} {chunk.name}")
            await chunk.may_end.wait()
            if chunk.name in self.failing:
                raise self.failing[chunk.name]
            try:
                await turn.finish(clean=chunk.is_clean)
            except OutOfTurn:
                self.events.append(f"again {chunk.name}")
                continue
            self.events.append(f"committed {chunk.name}")
            return


async def stream(chunks: Sequence[FakeChunk]) -> AsyncIterator[FakeChunk]:
    for chunk in chunks:
        yield chunk


async def settle() -> None:
    """Lets all tasks run as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def test_two_chunks_are_applied_at_once_and_committed_in_order(recorder: Recorder) -> None:
    chunks = [FakeChunk(number) for number in range(4)]
    running = asyncio.create_task(Pipeline().run(stream(chunks), recorder.apply))
    await settle()
    assert recorder.events == ["started 0", "first 1"]

    chunks[1].may_end.set()
    await settle()
    assert recorder.events == ["started 0", "first 1"]

    for chunk in chunks:
        chunk.may_end.set()
    await running
    assert [event for event in recorder.events if "committed" in event] == [f"committed {n}" for n in range(4)]
    assert recorder.events.index("committed 0") < recorder.events.index("first 2")


async def test_a_chunk_with_a_key_of_the_one_before_waits_for_its_turn(recorder: Recorder) -> None:
    keys = [frozenset({"ada@example.org"}), frozenset({"ada@example.org", "1"}), frozenset({"2"})]
    chunks = [FakeChunk(number, own) for number, own in enumerate(keys)]
    running = asyncio.create_task(Pipeline().run(stream(chunks), recorder.apply))
    await settle()
    assert recorder.events == ["started 0"]

    chunks[0].may_end.set()
    await settle()
    assert recorder.events == ["started 0", "committed 0", "started 1", "first 2"]
    for chunk in chunks:
        chunk.may_end.set()
    await running


async def test_a_chunk_that_started_first_and_met_a_conflict_is_applied_again(recorder: Recorder) -> None:
    chunks = [FakeChunk(0), FakeChunk(1, is_clean=False)]
    running = asyncio.create_task(Pipeline().run(stream(chunks), recorder.apply))
    chunks[1].may_end.set()
    await settle()
    assert recorder.events == ["started 0", "first 1", "again 1"]

    chunks[0].may_end.set()
    await running
    assert recorder.events[3:] == ["committed 0", "started 1", "committed 1"]


async def test_a_chunk_whose_turn_does_not_come_in_time_is_applied_again(
    recorder: Recorder,
) -> None:
    chunks = [FakeChunk(0), FakeChunk(1)]
    chunks[1].may_end.set()
    running = asyncio.create_task(Pipeline(turn_timeout_seconds=0.0).run(stream(chunks), recorder.apply))
    await settle()
    assert recorder.events == ["started 0", "first 1", "again 1"]

    chunks[0].may_end.set()
    await running
    assert recorder.events[3:] == ["committed 0", "started 1", "committed 1"]


async def test_chunks_start_first_again_after_a_few_clean_ones(recorder: Recorder) -> None:
    chunks = [FakeChunk(0, is_clean=False), *(FakeChunk(number) for number in range(1, CLEAN_CHUNKS + 3))]
    running = asyncio.create_task(Pipeline().run(stream(chunks), recorder.apply))
    for chunk in chunks[: CLEAN_CHUNKS + 1]:
        # The next chunk may have started first before the conflict was met.
        await settle()
        chunk.may_end.set()
    await settle()
    started = [event for event in recorder.events if event.startswith(("started", "first"))]
    assert started[:2] == ["started 0", "first 1"]
    assert started[2 : CLEAN_CHUNKS + 1] == [f"started {number}" for number in range(2, CLEAN_CHUNKS + 1)]
    assert started[CLEAN_CHUNKS + 1 :] == [f"started {CLEAN_CHUNKS + 1}", f"first {CLEAN_CHUNKS + 2}"]
    for chunk in chunks:
        chunk.may_end.set()
    await running


async def test_a_chunk_that_fails_stops_those_behind_it_and_not_those_before(recorder: Recorder) -> None:
    """Even where another request has moved the import to where they start."""
    chunks = [FakeChunk(number) for number in range(4)]
    recorder.failing[1] = NotFound()
    running = asyncio.create_task(Pipeline().run(stream(chunks), recorder.apply))
    for chunk in reversed(chunks):
        chunk.may_end.set()
        await settle()

    with pytest.raises(NotFound):
        await running
    assert [event for event in recorder.events if "committed" in event] == ["committed 0"]


async def test_a_chunk_that_started_first_is_not_committed_when_the_one_before_fails() -> None:
    line = Pipeline()
    first, second = line.next_turn(frozenset()), line.next_turn(frozenset())
    await second.start()
    failing = asyncio.create_task(fail())
    failing.add_done_callback(first.completion.set)

    assert second.started_first
    with pytest.raises(ImportMoved):
        await second.finish(clean=True)


async def fail() -> None:
    raise NotFound


async def test_a_task_that_was_cancelled_before_it_ran_ends_the_turn() -> None:
    line = Pipeline()
    first, second = line.next_turn(frozenset({"1"})), line.next_turn(frozenset({"1"}))
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(first.completion.set)
    task.cancel()
    await asyncio.wait([task])

    with pytest.raises(ImportMoved):
        await second.start()


async def test_an_error_of_the_stream_ends_the_pipeline_after_the_chunks_that_were_read(recorder: Recorder) -> None:
    async def broken() -> AsyncIterator[FakeChunk]:
        yield chunk
        raise NotFound

    chunk = FakeChunk(0)
    running = asyncio.create_task(Pipeline().run(broken(), recorder.apply))
    await settle()
    chunk.may_end.set()

    with pytest.raises(NotFound):
        await running
    assert recorder.events == ["started 0", "committed 0"]
