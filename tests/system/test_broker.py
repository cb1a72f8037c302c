"""A broker drives the service, which is killed again and again: every effect is there exactly once.

`BROKER_EVENTS` and `BROKER_KILLS` set how long that goes on.
"""

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.broker import Broker, Event
from support.event_sink import Sink
from support.process import ServiceProcess
from support.settings import API_KEY
from support.waiting import eventually

pytestmark = pytest.mark.anyio

EVENTS = int(os.environ.get("BROKER_EVENTS", "1500"))
KILLS = int(os.environ.get("BROKER_KILLS", "5"))
REDELIVERED = 0.3


class Patient:
    """A service that is started again, on its port, whenever it was killed."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.service = ServiceProcess(folder, environ)
        self.url = self.service.url
        self.environ["PORT"] = self.url.rpartition(":")[2]

    def kill(self) -> None:
        self.service.signal(signal.SIGKILL)
        self.service.process.wait()
        self.service = ServiceProcess(self.folder, self.environ)
        self.service.wait_for("running on")


async def until_delivered(broker: Broker, count: int) -> None:
    while broker.delivered < count:  # noqa: ASYNC110 - the broker counts and sends no signal
        await asyncio.sleep(0.01)


async def kill_while(broker: Broker, patient: Patient, total: int, kills: int, chance: random.Random) -> None:
    """Kills the service at random moments of the deliveries."""
    for moment in sorted(chance.randrange(total) for _ in range(kills)):
        await until_delivered(broker, moment)
        await asyncio.sleep(chance.uniform(0, 0.2))
        await asyncio.to_thread(patient.kill)


def creation(number: int) -> Event:
    users = [
        {
            "ref": f"{number}-{part}",
            "data": {"email": f"user-{number}-{part}@example.org", "external_id": f"{number}-{part}"},
        }
        for part in range(number % 3 + 1)
    ]
    return make_event(f"create-{number}", "create", {"items": users})


def update(number: int, user_id: str) -> Event:
    return make_event(
        f"update-{number}", "update", {"items": [{"id": user_id, "data": {"metadata": {f"n{number}": 1}}}]}
    )


def make_event(identity: str, verb: str, data: Any) -> Event:
    kind = f"org.userservice.batch.{verb}.v1"
    return {"specversion": "1.0", "id": identity, "source": "/broker", "type": kind, "data": data}


async def test_events_that_come_again_and_kills_leave_every_effect_exactly_once(
    database_url: str, tmp_path: Path, sink: Sink
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    sink.answer = lambda _: 503 if chance.random() < 0.02 else 202
    environ = {"DATABASE_URL": database_url, "K_SINK": sink.url, "ACCESS_LOG": "false", "CACHE": "none"}
    patient = await asyncio.to_thread(Patient, tmp_path, environ)
    broker = Broker(patient.url, {"X-API-Key": API_KEY}, chance)
    try:
        made = EVENTS // 2
        creations = [creation(number) for number in range(made)]
        wrong = [{**make_event(f"wrong-{number}", "create", {"items": 7})} for number in range(10)]
        total = round(EVENTS * (1 + REDELIVERED))
        killing = asyncio.create_task(kill_while(broker, patient, total * 9 // 10, KILLS, chance))
        await broker.deliver_all([*creations, *wrong], redelivered=REDELIVERED)
        ids = [item["id"] for event in creations for item in broker.documents[event["id"]]["items"]]
        # Few users, so that many changes meet in one.
        targets = {number: chance.choice(ids[:50]) for number in range(EVENTS - made - len(wrong))}
        updates = [update(number, user_id) for number, user_id in targets.items()]
        await broker.deliver_all(updates, redelivered=REDELIVERED)
        await killing
        assert broker.faults == []
        assert broker.dead_letters == {event["id"]: 400 for event in wrong}
        assert {event["id"] for event in creations + updates} == set(broker.replies)
        assert all(len(replies) == 1 for replies in broker.replies.values()), seed
        await check_users(database_url, creations, targets, ids)
        await check_events_out(database_url, sink)
    finally:
        if patient.service.process.poll() is None:
            await asyncio.to_thread(patient.service.stop)


async def check_users(database_url: str, creations: list[Event], targets: dict[int, str], ids: list[str]) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT id::text, external_id, version, metadata::text FROM users")
    finally:
        await connection.close()
    refs = [item["ref"] for event in creations for item in event["data"]["items"]]
    assert sorted(row["external_id"] for row in rows) == sorted(refs)
    assert {row["id"] for row in rows} == set(ids)
    for row in rows:
        asked = {f'"n{number}": 1' for number, user_id in targets.items() if user_id == row["id"]}
        found = set(filter(None, row["metadata"].strip("{}").split(", ")))
        assert found == asked
        assert row["version"] == 1 + len(asked)


async def check_events_out(database_url: str, sink: Sink) -> None:
    """Every change has its event and every event its change, and first arrivals are in order."""
    connection = await asyncpg.connect(database_url)
    try:
        changes = {str(row[0]) for row in await connection.fetch("SELECT event_id FROM user_changes")}
    finally:
        await connection.close()

    async def all_there() -> bool:
        return len({received.id for received in list(sink.taken)}) >= len(changes)

    await eventually(all_there)
    assert {received.id for received in sink.taken} == changes
    for user_id, versions in sink.versions().items():
        assert versions == list(range(1, len(versions) + 1)), user_id
