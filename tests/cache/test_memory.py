import asyncio
from time import monotonic
from uuid import UUID, uuid4

from user_service.cache.base import MAX_FENCES, Entry, VersionFences
from user_service.cache.memory import OVERHEAD_BYTES, MemoryCache

BODY = b"x" * 100
ENTRY_BYTES = OVERHEAD_BYTES + len(BODY)


def make_cache(entries: int, *, ttl_seconds: float = 60) -> MemoryCache:
    """A cache with room for so many entries of BODY."""
    return MemoryCache(max_bytes=entries * ENTRY_BYTES, ttl_seconds=ttl_seconds, read_seconds=60)


async def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    cache = make_cache(3)
    first, second, third, fourth = (uuid4() for _ in range(4))

    for user_id in (first, second, third):
        await cache.put({user_id: Entry(1, False, BODY)})
    assert cache.get_local(str(first)) is not None
    await cache.put({fourth: Entry(1, False, BODY)})

    assert [cache.get_local(str(user_id)) is not None for user_id in (first, second, third, fourth)] == [
        True,
        False,
        True,
        True,
    ]
    assert await cache.statistics() == {
        "tier": "memory",
        "entries": 3,
        "bytes": 3 * ENTRY_BYTES,
        "max_bytes": 3 * ENTRY_BYTES,
        "evictions": 1,
        "ttl_seconds": 60,
    }


async def test_the_bodies_of_versions_are_those_of_entries_that_have_not_expired() -> None:
    cache = make_cache(3, ttl_seconds=60)
    current, other, old, unknown = (uuid4() for _ in range(4))
    await cache.put({current: Entry(2, False, BODY), other: Entry(2, False, BODY)})
    await cache.put({old: Entry(2, False, BODY, monotonic() - 61)})

    bodies = cache.get_bodies([(current, 2), (other, 3), (old, 2), (unknown, 1)])

    assert bodies == [BODY, None, None, None]


async def test_an_entry_whose_body_was_used_stays_longest() -> None:
    cache = make_cache(2)
    first, second, third = (uuid4() for _ in range(3))
    for user_id in (first, second):
        await cache.put({user_id: Entry(1, False, BODY)})

    cache.get_bodies([(first, 1)])
    await cache.put({third: Entry(1, False, BODY)})

    assert cache.get_bodies([(first, 1), (second, 1), (third, 1)]) == [BODY, None, BODY]


async def test_the_bytes_are_counted_down_again() -> None:
    cache = make_cache(10)
    ids = [uuid4() for _ in range(4)]

    await cache.put({user_id: Entry(1, False, BODY) for user_id in ids})
    await cache.put({ids[0]: Entry(2, False, BODY + BODY)})
    await cache.invalidate({ids[1]: 2})
    before = cache.bytes
    await cache.clear()

    assert before == 3 * ENTRY_BYTES + len(BODY)
    assert cache.bytes == 0


async def test_a_cache_without_room_keeps_nothing() -> None:
    cache = make_cache(0)
    user_id = uuid4()

    await cache.put({user_id: Entry(1, False, BODY)})

    assert cache.get_local(str(user_id)) is None
    assert cache.bytes == 0


async def test_an_entry_ends_with_its_time_to_live() -> None:
    cache = make_cache(3, ttl_seconds=0.01)
    user_id = uuid4()

    await cache.put({user_id: Entry(5, False, BODY)})
    await asyncio.sleep(0.02)

    assert cache.get_local(str(user_id)) is None
    assert cache.bytes == 0


async def test_an_eviction_does_not_let_an_old_version_in() -> None:
    cache = make_cache(1)
    changed = uuid4()

    await cache.invalidate({changed: 2})
    await cache.put({uuid4(): Entry(1, False, BODY)})
    await cache.put({changed: Entry(1, False, BODY)})

    assert cache.get_local(str(changed)) is None


async def test_bulk_writes_leave_what_is_cached_alone() -> None:
    cache = make_cache(2)
    user_id = uuid4()

    await cache.put({user_id: Entry(1, False, BODY)})
    await cache.invalidate({uuid4(): 2 for _ in range(1000)})

    assert cache.get_local(str(user_id)) is not None


def test_fences_are_bounded_and_the_newest_stay() -> None:
    fences = VersionFences(seconds=60)
    ids = [UUID(int=number) for number in range(MAX_FENCES + 10)]

    fences.add(dict.fromkeys(ids, 2))

    assert len(fences.fences) == MAX_FENCES
    assert [fences.minimum_version(ids[0]), fences.minimum_version(ids[-1])] == [0, 2]


def test_fences_end_and_a_first_version_needs_none() -> None:
    fences = VersionFences(seconds=-1)

    fences.add({uuid4(): 2, uuid4(): 1})

    assert not fences.fences
