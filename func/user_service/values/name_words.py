"""Words of names for the search, as people type them: in any case, with or without accents, and parts of CJK words.

1. A text is folded (NFKC of the case-folded NFKC). Marks that people leave out are removed: accents, Hebrew points,
   Arabic vowel signs and hamza. Letters with a stroke, ligatures and the dotless i become what is typed for them.
2. Words end at every character that is no letter, mark or digit, and where Han, Kana or Hangul begins or ends.
3. Such a run is found by its characters and pairs of characters: a part of it has pairs that the run has.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final

from user_service.values.case_folding import fold_case

# Maps letters to lower case, digits to themselves and all other characters to a space.
ASCII: Final = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 0x20 for code in range(128)).ljust(256)
# Blocks whose nonspacing marks may be left out; the marks of other scripts are vowels. Variation selectors are in it.
OPTIONAL_MARKS: Final = (
    range(0x0300, 0x0370),
    range(0x0483, 0x0488),
    range(0x0591, 0x05C8),
    range(0x0610, 0x061B),
    range(0x064B, 0x0660),
    range(0x0670, 0x0671),
    range(0x06D6, 0x06EE),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE00, 0xFE10),
    range(0xFE20, 0xFE30),
    range(0xE0100, 0xE01F0),
)
# Unicode decomposes none of these.
STROKED: Final = "ıøđðłħŧŋæœþ"
STROKED_AS_TYPED: Final = (*"ioddlhtn", "ae", "oe", "th")
TATWEEL: Final = 0x0640
CJK: Final = (
    "\u1100-\u11ff\u3005-\u3007\u3031-\u3035\u303b\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u318e"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U000323af"
)
MIN_PREFIX: Final = 3
MAX_PREFIX: Final = 8


# What other texts than ASCII need is made when the first one comes: it would take a process 6 ms at its start.
@cache
def as_typed() -> dict[int, str]:
    """What is typed for a character, by its code."""
    marks = [code for block in OPTIONAL_MARKS for code in block if unicodedata.category(chr(code)) == "Mn"]
    stroked = {ord(letter): typed for letter, typed in zip(STROKED, STROKED_AS_TYPED, strict=True)}
    return dict.fromkeys([*marks, TATWEEL], "") | stroked


@cache
def run_pattern() -> re.Pattern[str]:
    return re.compile(f"([{CJK}]+)|[^{CJK} ]+")


def split_words(text: str) -> set[str]:
    """The words of a text, and its runs of Han, Kana or Hangul."""
    if text.isascii():
        return set(text.encode().translate(ASCII).decode().split())
    decomposed = unicodedata.normalize("NFD", fold_case(text)).translate(as_typed())
    return {run[0] for run in run_pattern().finditer(separate(unicodedata.normalize("NFC", decomposed)))}


def split_folded(text: str) -> set[str]:
    """The words as they were before accents were removed; terms of these may still be stored."""
    return set(separate(fold_case(text)).split())


def separate(text: str) -> str:
    """A text with a space in place of every character that is no letter, mark or digit."""
    return "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text)


def stored_words(text: str) -> set[str]:
    """By what a text is found: its words, and the characters and pairs of characters of its CJK runs."""
    words = split_words(text)
    return words if text.isascii() else {part for word in words for part in (parts(word) if is_cjk(word) else {word})}


def wanted_words(text: str) -> set[str]:
    """What a stored text must have so that a query finds it. The words of a query are parts of CJK runs."""
    words = split_words(text)
    return words if text.isascii() else {part for word in words for part in (pairs(word) if is_cjk(word) else {word})}


def prefixes(words: Iterable[str]) -> set[str]:
    """The beginnings of words, of 3 to 8 letters; CJK runs are found by their parts."""
    return {
        word[:length]
        for word in words
        if len(word) >= MIN_PREFIX and not is_cjk(word)
        for length in range(MIN_PREFIX, min(len(word), MAX_PREFIX) + 1)
    }


@lru_cache(maxsize=8192)
def is_cjk(word: str) -> bool:
    if word.isascii():
        return False
    run = run_pattern().match(word)
    return run is not None and run[1] is not None


def parts(run: str) -> set[str]:
    return {*run, *(run[place : place + 2] for place in range(len(run) - 1))}


def pairs(run: str) -> set[str]:
    """The pairs of a run, or the run if it is one character."""
    return {run[place : place + 2] for place in range(max(1, len(run) - 1))}
