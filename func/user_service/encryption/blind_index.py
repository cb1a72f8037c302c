"""Blind indexes: HMAC-SHA-256 over normalised values, so that encrypted values can be looked up.

The index of an e-mail address or a username is 16 bytes, the key of table `identifiers`. External ids, in clear in
`users` too, are there as they are: most callers count them up, and new ones stay side by side in the table's index.
The index of an external id is for tables that must not keep it after an erasure. A term (a whole word of a name, one
metadata pair, or an identifier of a deleted user) is the first 8 bytes as a signed integer, the key of the inverted
index `user_terms`. With SEARCH_PREFIXES, beginnings of words have terms too. The index of a phone number, which several
users may have, is a term.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from user_service.values.case_folding import email_key, fold_case
from user_service.values.name_words import (
    MAX_PREFIX,
    MIN_PREFIX,
    is_cjk,
    prefixes,
    split_folded,
    split_words,
    stored_words,
    wanted_words,
)

# The kinds of identifiers: e-mail addresses and aliases, usernames, external ids.
EMAIL: Final = 1
USERNAME: Final = 2
EXTERNAL_ID: Final = 3
INDEX_BYTES: Final = 16
PADDED_EXPONENT: Final = re.compile(r"e([+-])0")
TERM: Final = Struct(">q")
# Cached terms of each kind, and the maximum length of a cached word or pair: about 2 MB when full.
MAX_CACHED_TERMS: Final = 8192
MAX_CACHED_LENGTH: Final = 64
# First byte of a keyed digest, which makes it longer than an unkeyed one.
KEYED: Final = b"\x01"
DIGEST_BYTES: Final = 32

# Each is a table more in the statement of a search.
MAX_QUERY_WORDS: Final = 16

Scalar = str | int | float | bool | None


class PrefixedHmac:
    """HMAC-SHA-256 (RFC 2104) of messages with a common prefix; key and prefix are hashed once.

    It takes a third of the time of `hmac.digest`; a batch computes thousands.
    """

    def __init__(self, key: bytes, prefix: bytes) -> None:
        self.start = HMAC(key, SHA256())
        self.start.update(prefix)

    def digest(self, message: bytes) -> bytes:
        context = self.start.copy()
        context.update(message)
        return context.finalize()


class BlindIndex:
    """Computes the indexes and terms under one key of 32 bytes.

    With `stores_prefixes`, users get terms of the beginnings of their words, and with `finds_prefixes`, queries ask for
    these.
    """

    def __init__(self, key: bytes, *, stores_prefixes: bool = False, finds_prefixes: bool = False) -> None:
        self.stores_prefixes, self.finds_prefixes = stores_prefixes, finds_prefixes
        self.emails = PrefixedHmac(key, b"email\0")
        self.words = PrefixedHmac(key, b"word\0")
        self.pairs = PrefixedHmac(key, b"meta\0")
        # Words of names and metadata pairs repeat: a look-up is faster than a hash.
        self.cached_word = lru_cache(MAX_CACHED_TERMS)(self.hash_word)
        self.cached_pair = lru_cache(MAX_CACHED_TERMS, typed=True)(self.hash_pair)
        self.prefixes = PrefixedHmac(key, b"prefix\0")
        self.cached_prefix = lru_cache(MAX_CACHED_TERMS)(self.hash_prefix)
        self.domains = PrefixedHmac(key, b"domain\0")
        self.cached_domain = lru_cache(MAX_CACHED_TERMS)(self.hash_domain)
        self.usernames = PrefixedHmac(key, b"username\0")
        self.external_ids = PrefixedHmac(key, b"external_id\0")
        self.phones = PrefixedHmac(key, b"phone\0")
        self.digests = PrefixedHmac(key, b"digest\0")

    def email(self, email: str) -> bytes:
        """The 16-byte index of a normalised e-mail address."""
        return self.emails.digest(email_key(email).encode())[:INDEX_BYTES]

    def username(self, username: str) -> bytes:
        """The 16-byte index of a username, in any case."""
        return self.usernames.digest(encode_text(fold_case(username)))[:INDEX_BYTES]

    def external_id(self, external_id: str) -> bytes:
        """The 16-byte index of an external id."""
        return self.external_ids.digest(encode_text(external_id))[:INDEX_BYTES]

    def phone(self, phone: str | None) -> int | None:
        """The index of a phone number in E.164 format, 8 bytes as a signed integer; None for none."""
        return None if phone is None else unpack_term(self.phones.digest(phone.encode()))

    def digest(self, digest: bytes) -> bytes:
        """A keyed digest of an unkeyed one, so that guesses can't be tested without the key. A keyed one stays."""
        return KEYED + self.digests.digest(digest) if len(digest) == DIGEST_BYTES else digest

    def word(self, word: str) -> int:
        """The term of a word that `split_words` returned."""
        return self.cached_word(word) if len(word) <= MAX_CACHED_LENGTH else self.hash_word(word)

    def hash_word(self, word: str) -> int:
        return unpack_term(self.words.digest(word.encode()))

    def hash_prefix(self, prefix: str) -> int:
        return unpack_term(self.prefixes.digest(prefix.encode()))

    def wanted_terms(self, text: str) -> set[int]:
        """The terms of the words of a query; of very many words, of the longest ones."""
        words = sorted(wanted_words(text), key=lambda word: (-len(word), word))[:MAX_QUERY_WORDS]
        return {
            self.cached_prefix(word[:MAX_PREFIX])
            if self.finds_prefixes and len(word) >= MIN_PREFIX and not is_cjk(word)
            else self.word(word)
            for word in words
        }

    def former_terms(self, names: Iterable[str | None]) -> set[int]:
        """Terms of names that are not in `user_terms`, and that an earlier version or another setting has stored."""
        text = " ".join(filter(None, names))
        terms = set() if text.isascii() else set(map(self.word, split_folded(text)))
        if not self.stores_prefixes:
            terms.update(map(self.cached_prefix, prefixes(split_words(text))))
        return terms

    def domain(self, domain: str) -> int:
        """The term of the domain of a normalised e-mail address."""
        return self.cached_domain(domain) if len(domain) <= MAX_CACHED_LENGTH else self.hash_domain(domain)

    def hash_domain(self, domain: str) -> int:
        return unpack_term(self.domains.digest(domain.encode()))

    def pair(self, name: str, value: Scalar) -> int:
        """The term of a metadata pair. A value and its `scalar_text` have the same term."""
        return self.pair_terms({name: value})[0]

    def pair_terms(self, metadata: Mapping[str, Scalar]) -> list[int]:
        """The terms of metadata pairs, in their order."""
        terms = []
        for name, value in metadata.items():
            if type(value) is str:
                cacheable = len(name) + len(value) <= MAX_CACHED_LENGTH
            else:
                # 0.0 and -0.0 are equal, but their texts are not.
                cacheable = type(value) is not float and len(name) <= MAX_CACHED_LENGTH
            terms.append(self.cached_pair(name, value) if cacheable else self.hash_pair(name, value))
        return terms

    def hash_pair(self, name: str, value: Scalar) -> int:
        return unpack_term(self.pairs.digest(f"{name}\0{scalar_text(value)}".encode()))

    def user_terms(self, names: Iterable[str | None], metadata: Mapping[str, Scalar]) -> set[int]:
        """The terms of one user: of each word of its names, and of each metadata pair."""
        text = " ".join(filter(None, names))
        words = stored_words(text)
        terms = set(map(self.cached_word if len(text) <= MAX_CACHED_LENGTH else self.word, words))
        if self.stores_prefixes:
            terms.update(map(self.cached_prefix, prefixes(words)))
        terms.update(self.pair_terms(metadata))
        return terms


def encode_text(text: str) -> bytes:
    """UTF-8; text of a query may hold what is none."""
    return text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")


def unpack_term(digest: bytes) -> int:
    term: int = TERM.unpack_from(digest)[0]
    return term


def scalar_text(value: Scalar) -> str:
    """A metadata value as a query parameter spells it: a string as it is, any other value as JSON.

    Terms are hashes of these spellings, so they must never change; a JSON library's may.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return PADDED_EXPONENT.sub(r"e\1", repr(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return {True: "true", False: "false", None: "null"}[value]
