"""Text compared without regard to case and form: NFKC of the case-folded NFKC (Unicode 16, D146)."""

import unicodedata
from typing import Final


def fold_case(text: str) -> str:
    """Equal for all spellings of a text in any case and any Unicode form."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


# The key of an e-mail address that `normalise_email` returned, equal for all spellings of it.
email_key: Final = fold_case
