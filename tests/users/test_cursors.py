"""Cursors: opaque, signed, and bound to one query"""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from user_service.errors import InvalidCursor
from user_service.users.cursors import Cursor, CursorCodec

KEY = bytes(range(32))
CURSOR = st.builds(Cursor, st.datetimes(timezones=st.just(UTC)), st.uuids())
QUERY = st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \n\0é"


@given(CURSOR, QUERY)
def test_a_cursor_comes_back(cursor: Cursor, query: dict[str, str]) -> None:
    text = CursorCodec(KEY).encode(cursor, query=query)

    assert CursorCodec(KEY).decode(text, query=dict(reversed(query.items()))) == cursor
    assert text.replace("-", "").replace("_", "").isalnum()


@given(CURSOR, QUERY, st.data())
def test_any_altered_character_is_refused(cursor: Cursor, query: dict[str, str], data: st.DataObject) -> None:
    text = CursorCodec(KEY).encode(cursor, query=query)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(ALPHABET))
    assume(text[place] != other)

    with pytest.raises(InvalidCursor):
        CursorCodec(KEY).decode(text[:place] + other + text[place + 1 :], query=query)


def test_every_spelling_of_the_last_character_but_one_is_refused() -> None:
    text = CursorCodec(KEY).encode(Cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1)), query={})

    taken = []
    for other in ALPHABET:
        try:
            CursorCodec(KEY).decode(text[:-1] + other, query={})
            taken.append(other)
        except InvalidCursor:
            continue
    assert taken == [text[-1]]


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        CursorCodec(KEY).decode(text, query={})


@given(CURSOR, QUERY, QUERY)
def test_another_query_refuses_it(cursor: Cursor, query: dict[str, str], other: dict[str, str]) -> None:
    assume(query != other)

    with pytest.raises(InvalidCursor):
        CursorCodec(KEY).decode(CursorCodec(KEY).encode(cursor, query=query), query=other)


@given(CURSOR, st.binary(min_size=32, max_size=32))
def test_another_key_refuses_it(cursor: Cursor, key: bytes) -> None:
    assume(key != KEY)

    with pytest.raises(InvalidCursor):
        CursorCodec(key).decode(CursorCodec(KEY).encode(cursor, query={}), query={})
