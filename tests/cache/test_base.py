"""What every cache promises; the one that remembers nothing keeps the same promises by having no entry."""

from uuid import UUID, uuid4

import pytest

from user_service.cache.base import Cache, Entry


def entry(version: int, *, deleted: bool = False) -> Entry:
    return Entry(version, deleted, b'{"version":%d}' % version)


async def read_version(cache: Cache, user_id: UUID) -> int | None:
    found = (await cache.get([user_id])).get(user_id)
    return found.version if found else None


def kept(cache: Cache, version: int) -> int | None:
    """What a cache must return after a put that it may keep."""
    return None if cache.tier == "none" else version


async def test_an_entry_is_found_whole(cache: Cache) -> None:
    user_id = uuid4()

    await cache.put({user_id: entry(3, deleted=True)})
    found = (await cache.get([user_id, uuid4()])).get(user_id)

    assert await read_version(cache, user_id) == kept(cache, 3)
    assert found is None or (found.deleted, found.body) == (True, b'{"version":3}')


async def test_an_older_entry_never_replaces_a_newer_one(cache: Cache) -> None:
    user_id = uuid4()

    await cache.put({user_id: entry(10)})
    await cache.put({user_id: entry(9)})

    assert await read_version(cache, user_id) == kept(cache, 10)


@pytest.mark.parametrize("version", [2, 3])
async def test_an_entry_of_the_invalidated_version_or_a_newer_one_is_stored(cache: Cache, version: int) -> None:
    user_id = uuid4()

    await cache.invalidate({user_id: 2})
    await cache.put({user_id: entry(version)})

    assert await read_version(cache, user_id) == kept(cache, version)


async def test_an_invalidated_entry_is_gone_and_a_late_reader_does_not_bring_it_back(cache: Cache) -> None:
    user_id = uuid4()

    await cache.put({user_id: entry(1)})
    await cache.invalidate({user_id: 2})
    gone = await read_version(cache, user_id)
    await cache.put({user_id: entry(1)})

    assert gone is None
    assert await read_version(cache, user_id) is None


async def test_a_late_invalidation_does_not_let_an_older_version_in(cache: Cache) -> None:
    user_id = uuid4()

    await cache.put({user_id: entry(5)})
    await cache.invalidate({user_id: 3})
    await cache.put({user_id: entry(4)})

    assert await read_version(cache, user_id) == kept(cache, 5)


async def test_several_entries_are_invalidated_at_once_and_the_others_stay(cache: Cache) -> None:
    ids = [uuid4() for _ in range(30)]

    await cache.put({user_id: entry(1) for user_id in ids})
    await cache.invalidate(dict.fromkeys(ids[:20], 2))

    assert set(await cache.get(ids)) == (set() if cache.tier == "none" else set(ids[20:]))


async def test_clear_drops_everything_and_says_how_much(cache: Cache) -> None:
    ids = [uuid4() for _ in range(3)]

    await cache.put({user_id: entry(1) for user_id in ids})
    dropped = await cache.clear()

    assert dropped == (0 if cache.tier == "none" else 3)
    assert await cache.get(ids) == {}
    assert await cache.clear() == 0


async def test_nothing_is_asked_for_and_nothing_breaks(cache: Cache) -> None:
    await cache.put({})
    await cache.invalidate({})

    assert await cache.get([]) == {}
    assert (await cache.statistics())["tier"] == cache.tier
