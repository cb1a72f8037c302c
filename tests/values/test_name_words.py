"""The words of names."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_service.values.name_words import split_words

TEXT = st.text(max_size=40)


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
