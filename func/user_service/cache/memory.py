"""The cache in this process's memory."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from typing import Any, Final
from uuid import UUID

from user_service.cache.base import Entry, Footprint, VersionFences

# Memory of an entry beside its body.
OVERHEAD_BYTES: Final = 1000


class MemoryCache:
    """A least-recently-used cache of at most `max_bytes`; an entry expires `ttl_seconds` after its `as_of`.

    The keys are ids as a path spells them: a look-up parses nothing. `read_seconds` is the maximum duration of a
    database read, so that fences outlive the reads that they reject.
    """

    tier = local_tier = "memory"

    def __init__(self, *, max_bytes: int, ttl_seconds: float, read_seconds: float) -> None:
        self.max_bytes = max_bytes
        self.ttl_seconds = ttl_seconds
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.fences = VersionFences(seconds=read_seconds)
        self.bytes = 0
        self.evictions = 0

    @property
    def footprint(self) -> Footprint:
        return Footprint(len(self.entries), self.bytes, self.evictions)

    def open(self) -> None: ...

    def get_local(self, id_text: str) -> Entry | None:
        entry = self.entries.get(id_text)
        if entry is None:
            return None
        if entry.as_of + self.ttl_seconds < monotonic():
            self.remove(id_text)
            return None
        self.entries.move_to_end(id_text)
        return entry

    def get_bodies(self, versions: Iterable[tuple[UUID, int]]) -> list[bytes | None]:
        entries, oldest = self.entries, monotonic() - self.ttl_seconds
        bodies: list[bytes | None] = []
        for user_id, version in versions:
            entry = entries.get(id_text := str(user_id))
            if entry is None or entry.version != version or entry.as_of < oldest:
                bodies.append(None)
            else:
                entries.move_to_end(id_text)
                bodies.append(entry.body)
        return bodies

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        return {user_id: entry for user_id in ids if (entry := self.get_local(str(user_id)))}

    async def put(self, entries: Mapping[UUID, Entry]) -> None:
        for user_id, entry in entries.items():
            id_text = str(user_id)
            cached = self.get_local(id_text)
            if entry.version >= (cached.version if cached else self.fences.minimum_version(user_id)):
                self.replace(id_text, entry)

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        self.fences.add(versions)
        for user_id, version in versions.items():
            # Nothing is older than a first version.
            if version > 1 and (cached := self.entries.get(id_text := str(user_id))) and cached.version < version:
                self.remove(id_text)

    def replace(self, id_text: str, entry: Entry) -> None:
        self.remove(id_text)
        self.entries[id_text] = entry
        self.bytes += entry_bytes(entry)
        while self.bytes > self.max_bytes:
            self.remove(next(iter(self.entries)))
            self.evictions += 1

    def remove(self, id_text: str) -> None:
        entry = self.entries.pop(id_text, None)
        if entry is not None:
            self.bytes -= entry_bytes(entry)

    async def clear(self) -> int:
        return self.drop_all()

    def drop_all(self) -> int:
        dropped = len(self.entries)
        self.entries.clear()
        self.bytes = 0
        return dropped

    async def statistics(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "entries": len(self.entries),
            "bytes": self.bytes,
            "max_bytes": self.max_bytes,
            "evictions": self.evictions,
            "ttl_seconds": self.ttl_seconds,
        }

    async def close(self) -> None: ...


def entry_bytes(entry: Entry) -> int:
    return OVERHEAD_BYTES + len(entry.body)
