"""Blind indexes of e-mail addresses, words and metadata."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.strategies import ASCII_ADDRESS
from user_service.encryption.blind_index import BlindIndex, scalar_text
from user_service.values.emails import normalise_email

TEXT = st.text(max_size=40)
index = BlindIndex(bytes(range(32)))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), ASCII_ADDRESS)
def test_the_blind_index_depends_on_key_and_address(key: bytes, other_key: bytes, text: str) -> None:
    assume(key != other_key)
    try:
        email = normalise_email(text)
    except ValueError:
        assume(False)
        raise
    index = BlindIndex(key).email(email)

    assert len(index) == 16
    assert index == BlindIndex(key).email(email.upper())
    assert index != BlindIndex(other_key).email(email)
    assert index != BlindIndex(key).email("x" + email)


@pytest.mark.parametrize("spelling", ["STRASSE ９", "straße 9", "Strasse \uff19"])
def test_a_username_has_one_index_in_every_spelling(spelling: str) -> None:
    assert index.username(spelling) == index.username("Straße 9")


@given(TEXT)
def test_one_text_has_an_index_for_each_kind(text: str) -> None:
    assert len({index.email(text), index.username(text), index.external_id(text)}) == 3


@given(TEXT, TEXT, TEXT)
def test_terms_tell_words_and_pairs_apart(word: str, name: str, value: str) -> None:
    assert index.word(f"{name}\0{value}") != index.pair(name, value)
    assert -(2**63) <= index.word(word) < 2**63


def test_a_users_terms_are_those_of_all_names_and_all_metadata() -> None:
    terms = index.user_terms(("Ada", None, "Ada King"), {"plan": "pro", "seats": 3})

    expected = {index.word("ada"), index.word("king"), index.pair("plan", "pro"), index.pair("seats", "3")}
    assert terms == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (1, "1"),
        (1.0, "1.0"),
        (1e-7, "1e-7"),
        (1e22, "1e+22"),
        ("x", "x"),
    ],
)
def test_a_scalar_is_asked_for_as_json_writes_it(value: str | float | bool | None, text: str) -> None:
    assert scalar_text(value) == text
