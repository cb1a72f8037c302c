"""Words of names for the search: NFKC, case-folded, split at every character that is no letter, mark or digit."""

import unicodedata
from typing import Final

from user_service.values.case_folding import fold_case

# Maps letters to lower case, digits to themselves and all other characters to a space.
ASCII: Final = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 0x20 for code in range(128)).ljust(256)


def split_words(text: str) -> set[str]:
    """The words of a text."""
    if text.isascii():
        return set(text.encode().translate(ASCII).decode().split())
    spaced = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in fold_case(text))
    return set(spaced.split())
