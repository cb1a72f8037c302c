"""A broker as Knative's behave: at least once, in no order, retries on its codes, replies, dead letters."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson

RETRIED: Final = frozenset({404, 408, 409, 429})
BACKOFF_SECONDS: Final = 0.05
MAX_BACKOFF_SECONDS: Final = 1.0
STRUCTURED: Final = {"content-type": "application/cloudevents+json"}

Event = dict[str, Any]
Reply = tuple[bytes, dict[str, str]]


@dataclass
class Broker:
    """Delivers to one subscriber. Each event is delivered `copies` times, until it is taken or refused for good."""

    url: str
    headers: dict[str, str]
    chance: random.Random
    replies: dict[str, set[tuple[str, str, bytes]]] = field(default_factory=lambda: defaultdict(set))
    documents: dict[str, Any] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    attempts: int = 0
    delivered: int = 0

    async def deliver_all(self, events: list[Event], *, redelivered: float, at_once: int = 16) -> None:
        """Delivers events out of order; a share of them again, some of those at the same time as the first time."""
        deliveries = [[event] for event in events]
        again = self.chance.sample(events, round(len(events) * redelivered))
        deliveries += [[event] for event in again[::2]]
        deliveries += [[event, event] for event in again[1::2]]
        self.chance.shuffle(deliveries)
        waiting = iter(deliveries)
        limits = httpx.Limits(max_connections=2 * at_once, max_keepalive_connections=2 * at_once)
        async with httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30, limits=limits) as client:

            async def work() -> None:
                for copies in waiting:
                    await asyncio.gather(*(self.deliver(client, event) for event in copies))

            await asyncio.gather(*(work() for _ in range(at_once)))

    async def deliver(self, client: httpx.AsyncClient, event: Event) -> None:
        """Until the subscriber takes the event or refuses it for good."""
        pause = BACKOFF_SECONDS
        while not await self.attempt(client, event):
            await asyncio.sleep(pause * self.chance.uniform(0.5, 1.0))
            pause = min(2 * pause, MAX_BACKOFF_SECONDS)
        self.delivered += 1

    async def attempt(self, client: httpx.AsyncClient, event: Event) -> bool:
        self.attempts += 1
        try:
            response = await self.send(client, event)
        except httpx.TransportError:
            return False
        if response.status_code in RETRIED or response.status_code >= 500:
            return False
        if not response.is_success:
            self.dead_letters[event["id"]] = response.status_code
            return True
        return self.route_reply(event, response)

    async def send(self, client: httpx.AsyncClient, event: Event) -> httpx.Response:
        if self.chance.random() < 0.5:
            return await client.post("/events", content=orjson.dumps(event), headers=STRUCTURED)
        attributes = {f"ce-{name}": value for name, value in event.items() if name != "data"}
        headers = {**attributes, "content-type": "application/json"}
        return await client.post("/events", content=orjson.dumps(event["data"]), headers=headers)

    def route_reply(self, event: Event, response: httpx.Response) -> bool:
        """A 2xx with a body that is no event counts as a failure, and is one of the service."""
        if not response.content:
            return True
        head = response.headers
        if not {"ce-id", "ce-source", "ce-type", "ce-specversion"} <= set(head):
            self.faults.append(f"{response.status_code} without an event")
            return False
        self.replies[event["id"]].add((head["ce-id"], head["ce-time"], response.content))
        self.documents[event["id"]] = response.json()
        return True
