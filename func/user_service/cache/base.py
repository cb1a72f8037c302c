"""The cache of users: the protocol, an entry, version fences, and the cache that stores nothing.

An entry carries its row's version, and never replaces a newer one. An invalidation leaves a fence with the new version,
so that a reader whose query ran before the commit can't put the old value back after it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

MAX_FENCES: Final = 100_000
# Maximum age of a cache entry when Redis is used. The promise is 5 s; 1 s is left for the response.
MAX_STALENESS_SECONDS: Final = 4.0


class Entry:
    """A user as the API returns it: the JSON, its version and whether the user is deleted.

    `as_of` is a time on this process's monotonic clock at which it was valid; by default now.
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
    """Entries and bytes held in this process, and the number of evictions so far."""

    entries: int = 0
    size_bytes: int = 0
    evictions: int = 0


class Cache(Protocol):
    """Never raises and never blocks for long: a cache that fails has no entry."""

    tier: str
    # The tier that `get_local` reads, as the metrics name it.
    local_tier: str

    @property
    def footprint(self) -> "Footprint":
        """The memory that it uses in this process."""

    def open(self) -> None:
        """Starts its background tasks on the running loop."""

    def get_local(self, id_text: str) -> Entry | None:
        """An entry from this process's memory. `id_text` is an id as `str` formats it; any other text has no entry."""

    def get_bodies(self, versions: Iterable[tuple[UUID, int]]) -> list[bytes | None]:
        """The JSON of each of these versions of users; None for those that this process's memory does not have."""

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        """The entries that it has."""

    async def put(self, entries: Mapping[UUID, Entry]) -> None:
        """Stores entries, each unless a newer version is known."""

    async def invalidate(self, versions: Mapping[UUID, int]) -> None:
        """Drops what is older than these versions, and rejects it from now on."""

    async def clear(self) -> int:
        """Drops this service's own entries; returns how many."""

    async def statistics(self) -> dict[str, Any]:
        """The cache's part of `GET /api/v1/cache`."""

    async def close(self) -> None: ...


class VersionFences:
    """The versions of users that changed in the last `seconds`; beyond `MAX_FENCES` the oldest are removed."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds
        self.fences: OrderedDict[UUID, tuple[float, int]] = OrderedDict()

    def add(self, versions: Mapping[UUID, int]) -> None:
        now = monotonic()
        for user_id, version in versions.items():
            # Nothing is older than a first version.
            if version > 1 and version >= self.minimum_version(user_id):
                self.fences[user_id] = (now + self.seconds, version)
                self.fences.move_to_end(user_id)
        while self.fences and (len(self.fences) > MAX_FENCES or next(iter(self.fences.values()))[0] < now):
            self.fences.popitem(last=False)

    def minimum_version(self, user_id: UUID) -> int:
        """The lowest version that an entry may have; 0 without a fence."""
        fence = self.fences.get(user_id)
        return fence[1] if fence is not None else 0


class NoCache:
    """Stores nothing."""

    tier = local_tier = "none"
    footprint = Footprint()

    def open(self) -> None: ...

    def get_local(self, id_text: str) -> Entry | None:
        return None

    def get_bodies(self, versions: Iterable[tuple[UUID, int]]) -> list[bytes | None]:
        return [None for _ in versions]

    async def get(self, ids: Collection[UUID]) -> dict[UUID, Entry]:
        return {}

    async def put(self, entries: Mapping[UUID, Entry]) -> None: ...

    async def invalidate(self, versions: Mapping[UUID, int]) -> None: ...

    async def clear(self) -> int:
        return 0

    async def statistics(self) -> dict[str, Any]:
        return {"tier": self.tier, "entries": 0}

    async def close(self) -> None: ...
