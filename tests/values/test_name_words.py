"""The words of names."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_service.values.name_words import MAX_PREFIX, MIN_PREFIX, prefixes, split_words, stored_words, wanted_words

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
    assert {word for word in split_words(text + " 語") if word != "語"} == split_words(text)


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
        ("Ärger ÅÇÉÎÑÕŠŽ ğ", {"arger", "aceinosz", "g"}),
        (
            "Łódź Øre Æsir Œuvre Þór ðað đa ħa ŧa ŋa",
            {"lodz", "ore", "aesir", "oeuvre", "thor", "dad", "da", "ha", "ta", "na"},
        ),
        ("İIıi", {"iiii"}),
        ("שָׁלוֹם", {"שלום"}),
        ("葛󠄀城 Bob太郎", {"葛城", "bob", "太郎"}),
        ("がぎ ｶﾞ", {"がぎ", "ガ"}),
    ],
)
def test_words_are_split_and_folded(text: str, words: set[str]) -> None:
    assert split_words(text) == words


@given(TEXT, TEXT)
def test_a_query_of_words_of_a_text_finds_it(text: str, other: str) -> None:
    assert wanted_words(text) <= stored_words(f"{other} {text}")


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1, max_size=12), st.data())
def test_every_part_of_a_run_finds_it(run: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(run) - 1))
    end = data.draw(st.integers(start + 1, len(run)))

    assert wanted_words(run[start:end]) <= stored_words(run)


@given(TEXT)
def test_beginnings_have_three_to_eight_letters(text: str) -> None:
    words = split_words(text)

    for prefix in prefixes(words):
        assert MIN_PREFIX <= len(prefix) <= MAX_PREFIX
        assert any(word.startswith(prefix) for word in words)


def test_beginnings_are_those_of_words() -> None:
    assert prefixes({"ada", "al", "wilhelmina", "山田太郎"}) == {
        "ada",
        "wil",
        "wilh",
        "wilhe",
        "wilhel",
        "wilhelm",
        "wilhelmi",
    }
