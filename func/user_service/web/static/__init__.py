"""Files for browsers: the status page, which is one file, and Swagger UI, which the package fastapi-swagger carries.

Files are read at the first request.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

SWAGGER_UI: Final = "fastapi_swagger.resources"
ASSETS: Final = {
    "swagger-ui.css": (SWAGGER_UI, "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (SWAGGER_UI, "text/javascript; charset=utf-8"),
    "docs.js": (__name__, "text/javascript; charset=utf-8"),
}
POLICY: Final = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
NO_MARKUP_FROM_SCRIPTS: Final = "; require-trusted-types-for 'script'; trusted-types 'none'"


class WebPage(NamedTuple):
    """UTF-8, and the Content-Security-Policy (level 3) that allows what is in the page, and nothing else."""

    content: bytes
    policy: str


class Asset(NamedTuple):
    content: bytes
    media_type: str


@cache
def load_status_page() -> WebPage:
    """The status page, whose style and script are inline and allowed by their hashes."""
    page = read_page("status.html")
    policy = POLICY.format(script=hash_inline(page, "script"), style=hash_inline(page, "style"))
    return WebPage(page.encode(), policy + NO_MARKUP_FROM_SCRIPTS)


@cache
def load_docs_page() -> WebPage:
    """Swagger UI, whose files are addressed by their content."""
    page = re.sub(r'"docs/([^"]+)"', lambda link: f'"docs/{content_hash(link[1])}/{link[1]}"', read_page("docs.html"))
    return WebPage(page.encode(), POLICY.format(script="'self'", style="'self'"))


def load_asset(name: str) -> Asset:
    """Raises KeyError for a name that is not in ASSETS."""
    return Asset(find_asset(name).read_bytes(), ASSETS[name][1])


@cache
def content_hash(name: str) -> str:
    """Changes with the asset's content. Raises KeyError."""
    return sha256(find_asset(name).read_bytes()).hexdigest()[:16]


def find_asset(name: str) -> Traversable:
    return files(ASSETS[name][0]).joinpath(name)


def read_page(name: str) -> str:
    # Text mode makes every line end \n, which is what a browser hashes.
    return files(__name__).joinpath(name).read_text("utf-8")


def hash_inline(page: str, element: str) -> str:
    """The source expressions of the inline `<script>`s or `<style>`s."""
    sources = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'" for source in sources)
