"""Normal forms of e-mail addresses, and what makes two the same"""

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.strategies import ASCII_ADDRESS, LABEL, LOCAL
from user_service.values.case_folding import email_key
from user_service.values.emails import MAX_LENGTH, normalise_email

WIDE_LABEL = st.text(st.characters(categories=["Ll", "Lo", "Mn"]), min_size=1, max_size=8)
WIDE_LOCAL = st.text(st.characters(categories=["L", "N", "M"]), min_size=1, max_size=12)
ADDRESS = st.one_of(
    ASCII_ADDRESS, st.builds("{}@{}.{}".format, LOCAL | WIDE_LOCAL, LABEL | WIDE_LABEL, st.sampled_from(["org", "рф"]))
)


def normal_form(text: str) -> str:
    """Skips what is no address."""
    try:
        return normalise_email(text)
    except ValueError:
        assume(False)
        raise


@given(ADDRESS)
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    normal = normal_form(text)

    assert normalise_email(normal) == normal
    assert email_key(normalise_email(email_key(normal))) == email_key(normal)


@given(ADDRESS)
def test_a_normal_form_has_an_ascii_domain_in_lower_case(text: str) -> None:
    local, _, domain = normal_form(text).rpartition("@")

    assert domain.isascii()
    assert domain == domain.lower()
    assert unicodedata.is_normalized("NFC", local)
    assert len(local.encode()) <= 64


@given(ADDRESS, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["", " ", "\n", "\u3000"]))
def test_spellings_share_a_key(text: str, form: str, space: str) -> None:
    key = email_key(normal_form(text))

    assert email_key(normalise_email(space + text + space)) == key
    assert email_key(normalise_email(unicodedata.normalize(form, text))) == key


@given(ASCII_ADDRESS)
def test_cases_share_a_key(text: str) -> None:
    key = email_key(normal_form(text))

    for spelling in (text.upper(), text.lower(), text.swapcase()):
        assert email_key(normalise_email(spelling)) == key


@given(ASCII_ADDRESS, ASCII_ADDRESS)
def test_other_addresses_have_other_keys(one: str, other: str) -> None:
    assume(one.lower() != other.lower())

    assert email_key(normal_form(one)) != email_key(normal_form(other))


@given(st.text(max_size=300) | st.text("a@.-xn ä\0\ud800", max_size=40))
def test_any_text_is_an_address_or_a_value_error_that_does_not_repeat_it(text: str) -> None:
    normal, reason = try_to_normalise(text)

    assert len(text) < 4 or text not in reason
    assert len(normal) <= MAX_LENGTH
    assert normal.count("@") == (not reason)


def try_to_normalise(text: str) -> tuple[str, str]:
    """The normal form, or the reason against it."""
    try:
        return normalise_email(text), ""
    except ValueError as error:
        return "", str(error)


@pytest.mark.parametrize(
    "text", ["ada@127.0.0.1", "ü" * 33 + "@example.org", "ada@example", "", "@", "ada@ex ample.org"]
)
def test_the_reason_is_written_for_people(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not an e-mail address[:;] \w+"):
        normalise_email(text)
