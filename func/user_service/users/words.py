"""Whole words of names, as the search knows them: NFKC, case-folded, split at whatever is no letter, mark or digit."""

import re
import unicodedata
from typing import Final

ASCII_WORD: Final = re.compile(r"[a-z0-9]+")


def split_words(text: str) -> set[str]:
    """The words of a text; empty when it has none."""
    if text.isascii():
        return set(ASCII_WORD.findall(text.lower()))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return set(spaced.split())
