"""Pages for people: HTML files that carry their own style and script and need nothing from anywhere else."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def load_page(name: str) -> tuple[bytes, str]:
    """The page's UTF-8 bytes and the Content-Security-Policy (level 3) it is to be sent with.

    The policy lets run what stands in the page, lets it fetch from its own origin, and nothing else.
    `name` is a file of this package; FileNotFoundError when there is none of that name.
    """
    # Text mode makes every line end \n, which is what a browser hashes.
    page = files(__name__).joinpath(name).read_text("utf-8")
    return page.encode(), content_security_policy(page)


def content_security_policy(page: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {inline_sources(page, 'script')}",
            f"style-src {inline_sources(page, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def inline_sources(page: str, kind: str) -> str:
    sources = [source.encode() for found, source in INLINE.findall(page) if found == kind]
    hashes = [b64encode(sha256(source).digest()).decode() for source in sources]
    return " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
