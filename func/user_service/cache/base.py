"""The cache of users: a protocol, its no-op twin, and a bounded one in this process. Redis is in redis_cache.py.

An entry carries its row's version, and a fill never replaces a newer one. What is forgotten leaves a mark with the
version that replaced it, so that a reader who read before the commit can't put the old value back after it.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

OVERHEAD_BYTES: Final = 1000
MAX_FENCES: Final = 100_000
# How long an entry is believed where several replicas cache: what they promise is five, and an answer takes its time.
MAX_STALENESS_SECONDS: Final = 4.0


class Entry:
    """A user as it is answered: the JSON, its version and whether the user is deleted.

    `as_of` is a moment on this process's monotonic clock at which it was true; by default now.
    """

    __slots__ = ("as_of", "body", "deleted", "headers", "validators", "version")

    def __init__(self, version: int, deleted: bool, body: bytes, as_of: float | None = None) -> None:
        self.as_of = monotonic() if as_of is None else as_of
        self.version = version
        self.deleted = deleted
        self.body = body
        self.validators = ((b"cache-control", b"private, no-cache"), (b"etag", b'"%d"' % version))
        self.headers = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self.validators,
        )


class Footprint(NamedTuple):
    """Entries and bytes held in this process, and how many entries had to make room so far."""

    entries: int = 0
    size_bytes: int = 0
    evictions: int = 0


class Cache(Protocol):
    """Never raises and never blocks for long: a cache that can't answer has no entry."""

    tier: str
    # What `peek` looks into, as the metrics name it.
    local_tier: str

    @property
    def footprint(self) -> "Footprint":
        """What it takes of this process's memory."""

    def open(self) -> None:
        """Begins what it does in the background, on the running loop."""

    def get_local(self, written: str) -> Entry | None:
        """An entry that is at hand in this process, by its id as `str` writes it; any other text has none."""

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        """The entries that there are."""

    async def fill(self, entries: Mapping[UUID, Entry]) -> None:
        """Keeps entries, each unless a newer version is known."""

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        """Drops what is older than these versions, and refuses it from now on."""

    async def clear(self) -> int:
        """Drops this service's own entries; returns how many."""

    async def statistics(self) -> dict[str, Any]:
        """What `GET /api/v1/cache` says of it."""

    async def close(self) -> None: ...


class VersionFences:
    """The versions of what has changed in the last `seconds`; beyond `MAX_FENCES` the oldest give way."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds
        self.known: OrderedDict[UUID, tuple[float, int]] = OrderedDict()

    def add(self, versions: Mapping[UUID, int]) -> None:
        now = monotonic()
        for user_id, version in versions.items():
            # Nothing is older than a first version.
            if version > 1 and version >= self.version_of(user_id):
                self.known[user_id] = (now + self.seconds, version)
                self.known.move_to_end(user_id)
        while self.known and (len(self.known) > MAX_FENCES or next(iter(self.known.values()))[0] < now):
            self.known.popitem(last=False)

    def version_of(self, user_id: UUID) -> int:
        """The version that an entry must have reached; 0 where any will do."""
        mark = self.known.get(user_id)
        return mark[1] if mark is not None else 0


class NoCache:
    """Remembers nothing."""

    tier = local_tier = "none"
    footprint = Footprint()

    def open(self) -> None: ...

    def get_local(self, written: str) -> Entry | None:
        return None

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        return {}

    async def fill(self, entries: Mapping[UUID, Entry]) -> None: ...

    async def invalidate(self, versions: Mapping[UUID, int]) -> None: ...

    async def clear(self) -> int:
        return 0

    async def statistics(self) -> dict[str, Any]:
        return {"tier": self.tier, "entries": 0}

    async def close(self) -> None: ...


class MemoryCache:
    """Least recently used first out, within `max_bytes`, and `ttl_seconds` after the moment that an entry is of.

    Kept by ids as they are written in a path: a look at one parses nothing. `read_seconds` is longer than any read of
    the database takes, so that marks outlive the reads that they refuse.
    """

    tier = local_tier = "memory"

    def __init__(self, *, max_bytes: int, ttl_seconds: float, read_seconds: float) -> None:
        self.max_bytes = max_bytes
        self.ttl_seconds = ttl_seconds
        self.slots: OrderedDict[str, Entry] = OrderedDict()
        self.marks = VersionFences(seconds=read_seconds)
        self.bytes = 0
        self.evictions = 0

    @property
    def footprint(self) -> Footprint:
        return Footprint(len(self.slots), self.bytes, self.evictions)

    def open(self) -> None: ...

    def get_local(self, written: str) -> Entry | None:
        entry = self.slots.get(written)
        if entry is None:
            return None
        if entry.as_of + self.ttl_seconds < monotonic():
            self.drop(written)
            return None
        self.slots.move_to_end(written)
        return entry

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        return {user_id: entry for user_id in ids if (entry := self.get_local(str(user_id)))}

    async def fill(self, entries: Mapping[UUID, Entry]) -> None:
        for user_id, entry in entries.items():
            written = str(user_id)
            known = self.get_local(written)
            if entry.version >= (known.version if known else self.marks.version_of(user_id)):
                self.put(written, entry)

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        self.marks.add(versions)
        for user_id, version in versions.items():
            # Nothing is older than a first version.
            if version > 1 and (known := self.slots.get(written := str(user_id))) and known.version < version:
                self.drop(written)

    def put(self, written: str, entry: Entry) -> None:
        self.drop(written)
        self.slots[written] = entry
        self.bytes += size_of(entry)
        while self.bytes > self.max_bytes:
            self.drop(next(iter(self.slots)))
            self.evictions += 1

    def drop(self, written: str) -> None:
        entry = self.slots.pop(written, None)
        if entry is not None:
            self.bytes -= size_of(entry)

    async def clear(self) -> int:
        return self.drop_all()

    def drop_all(self) -> int:
        dropped = len(self.slots)
        self.slots.clear()
        self.bytes = 0
        return dropped

    async def statistics(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "entries": len(self.slots),
            "bytes": self.bytes,
            "max_bytes": self.max_bytes,
            "evictions": self.evictions,
            "ttl_seconds": self.ttl_seconds,
        }

    async def close(self) -> None: ...


def size_of(entry: Entry) -> int:
    return OVERHEAD_BYTES + len(entry.body)
