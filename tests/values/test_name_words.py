"""The word index of names"""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_service.encryption.blind_index import BlindIndex, scalar_text
from user_service.values.name_words import split_words

TEXT = st.text(max_size=40)
index = BlindIndex(bytes(range(32)))


@given(TEXT)
def test_words_are_their_own_words(text: str) -> None:
    words = split_words(text)

    assert all(split_words(word) == {word} for word in words)
    assert split_words(" ".join(words)) == words


@given(TEXT, TEXT)
def test_a_text_has_the_words_of_its_parts(one: str, other: str) -> None:
    assert split_words(f"{one} {other}") == split_words(one) | split_words(other)


@given(TEXT, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_forms_of_unicode_have_the_same_words(text: str, form: str) -> None:
    assert split_words(unicodedata.normalize(form, text)) == split_words(unicodedata.normalize("NFD", text))


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_plain_text_takes_the_short_way_to_the_same_words(text: str) -> None:
    assert {word for word in split_words(text + " é") if word != "é"} == split_words(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", set()),
        (" -'. \0\n", set()),
        ("Ada King-Noel", {"ada", "king", "noel"}),
        ("O'Neill", {"o", "neill"}),
        ("STRASSE Straße", {"strasse"}),
        ("ﬁ Ⅷ ２", {"fi", "viii", "2"}),
        ("李小龍", {"李小龍"}),
    ],
)
def test_words_are_split_and_folded(text: str, words: set[str]) -> None:
    assert split_words(text) == words


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
