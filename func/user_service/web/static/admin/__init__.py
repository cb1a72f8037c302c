"""The admin page: ES modules and a style sheet beside this file, which are served as they are.

Files are read at the first request of the page.
"""

import re
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from user_service.web.static import NO_MARKUP_FROM_SCRIPTS, POLICY, Asset, WebPage

MEDIA_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@cache
def load_admin_page() -> WebPage:
    """The page, whose links lead to files of this very version."""
    return load_page("index.html", "admin/")


@cache
def load_callback_page() -> WebPage:
    """The page at `admin/callback`, which a person comes back to after signing in at an issuer."""
    return load_page("callback.html", "")


def load_page(name: str, folder: str) -> WebPage:
    """A page whose links to `folder` lead to the files of this version."""
    page = files(__name__).joinpath(name).read_text("utf-8")
    linked = re.sub(rf'"{folder}([a-z_]+\.(?:css|js))"', lambda link: f'"{folder}{admin_version()}/{link[1]}"', page)
    return WebPage(linked.encode(), POLICY.format(script="'self'", style="'self'") + NO_MARKUP_FROM_SCRIPTS)


@cache
def load_admin_assets() -> dict[str, Asset]:
    """The files of the page by name."""
    found = sorted(files(__name__).iterdir(), key=lambda file: file.name)
    kinds = ((file, MEDIA_TYPES.get(file.name.rpartition(".")[2])) for file in found)
    return {file.name: Asset(file.read_bytes(), kind) for file, kind in kinds if kind is not None}


@cache
def admin_version() -> str:
    """Changes with the content of any file: modules import each other by relative names, so they change together."""
    digest = sha256()
    for name, asset in load_admin_assets().items():
        digest.update(f"{name} {len(asset.content)}\n".encode() + asset.content)
    return digest.hexdigest()[:16]
