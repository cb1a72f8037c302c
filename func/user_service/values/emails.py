"""E-mail addresses: the form that is stored, and the key by which addresses are compared.

The stored form is trimmed, NFC, with the domain in lower-case IDNA 2008 A-labels; the case of the local part stays.
Two addresses are the same if their `email_key` is: NFKC case-folded local part, then the domain (RFC 5321, 5891, 6531).
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 254
MAX_LOCAL_BYTES: Final = 64
TOO_LONG: Final = f"not an e-mail address: longer than {MAX_LENGTH} characters"
# Stands for a domain that is checked by itself.
STAND_IN: Final = "example.org"
# ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER (RFC 5892, A.1 and A.2).
JOINERS: Final = re.compile("[\u200c\u200d]")
# What runs of characters match is never given back, since no shorter run would match: the look at an address is short.
PLAIN_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++)*+")
PLAIN_DOMAIN: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)


def normalise_email(text: str) -> str:
    """The form of an address that is stored and returned. Raises ValueError with a reason for the API's client."""
    trimmed = text.strip()
    if len(trimmed) <= MAX_LENGTH:
        local, _, domain = trimmed.rpartition("@")
        if len(local) <= MAX_LOCAL_BYTES and PLAIN_LOCAL.fullmatch(local):
            plain = normalise_plain_domain(domain)
            if plain is not None:
                return f"{local}@{plain}"
    return normalise_international_email(trimmed)


@lru_cache(maxsize=1024)
def normalise_plain_domain(domain: str) -> str | None:
    """A domain of ASCII without A-labels in lower case; None for any other text. Most addresses share a few domains."""
    # Two hyphens at the third position mark an A-label, which the library must check.
    return domain.lower() if PLAIN_DOMAIN.fullmatch(domain) and "--" not in domain else None


def parse_email(text: str) -> str | None:
    """The form of an address that is stored; None for a text that is none."""
    try:
        return normalise_email(text)
    except ValueError:
        return None


def normalise_domain(text: str) -> str:
    """A domain as `normalise_email` writes it. Raises ValueError with a reason for the API's client."""
    try:
        return email_domain(normalise_email(f"x@{text.strip()}"))
    except ValueError:
        raise ValueError("not a domain of e-mail addresses; expected one such as example.org") from None


def email_domain(email: str) -> str:
    """The domain of a normalised address."""
    return email.rpartition("@")[2]


def normalise_international_email(trimmed: str) -> str:
    """`normalise_email` for any address, by a library whose reasons are replaced, because they quote the address."""
    from email_validator import EmailNotValidError, validate_email

    if len(trimmed) > 4 * MAX_LENGTH:
        raise ValueError(TOO_LONG)
    local, at, given_domain = trimmed.rpartition("@")
    joined = encode_joined_domain(given_domain) if at else None
    address = f"{local}@{STAND_IN}" if joined else trimmed
    try:
        parts = validate_email(
            unicodedata.normalize("NFC", address), check_deliverability=False, globally_deliverable=False
        )
    except (EmailNotValidError, UnicodeError):
        raise ValueError("not an e-mail address; expected local-part@domain, as in ada@example.org") from None
    domain = joined or (parts.ascii_domain or parts.domain).lower()
    if "." not in domain:
        raise ValueError("not an e-mail address: the domain after the @ has no dot")
    if domain.rpartition(".")[2].isdigit():
        raise ValueError("not an e-mail address: the domain after the @ is an IP address")
    if len(parts.local_part.encode()) > MAX_LOCAL_BYTES:
        raise ValueError(f"not an e-mail address: more than {MAX_LOCAL_BYTES} bytes before the @")
    email = f"{parts.local_part}@{domain}"
    if len(email) > MAX_LENGTH:
        raise ValueError(TOO_LONG)
    return email


def encode_joined_domain(domain: str) -> str | None:
    """The A-labels of a domain with joiners, which some scripts need and IDNA 2008 allows between their letters.

    None for any other domain. The library of e-mail addresses refuses all joiners as unsafe.
    """
    import idna

    if len(domain) > MAX_LENGTH:
        return None
    try:
        shown = idna.decode(domain, uts46=True, std3_rules=True)
        return idna.encode(shown).decode() if JOINERS.search(shown) and not shown.endswith(".") else None
    except UnicodeError:
        return None
