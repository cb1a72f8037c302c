import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from user_service.web.static import ASSETS, WebPage, content_hash, load_asset, load_docs_page, load_status_page
from user_service.web.static.admin import admin_version, load_admin_assets, load_admin_page

pages = pytest.mark.parametrize("load", [load_admin_page, load_docs_page, load_status_page])
Load = Callable[[], WebPage]
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Outline(HTMLParser):
    """What stands in a page: its tags with attributes, its inline sources, and tags that close wrongly."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.misplaced: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inline:
            self.inline[self.open[-1]].append(data)


def directives(policy: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (part.split() for part in policy.split("; "))}


def hash_source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("kind", ["script", "style"])
def test_the_policy_allows_exactly_the_inline_sources_of_the_status_page(kind: str) -> None:
    page = load_status_page()

    sources = Outline(page.content).inline[kind]

    assert len(sources) == 1
    assert directives(page.policy)[f"{kind}-src"] == [hash_source(source) for source in sources]


def test_the_documentation_has_no_inline_source_and_none_is_allowed() -> None:
    page = load_docs_page()

    assert Outline(page.content).inline == {"script": [], "style": []}
    assert [directives(page.policy)[name] for name in ("script-src", "style-src")] == [["'self'"], ["'self'"]]


@pages
def test_the_policy_closes_what_the_page_does_not_need(load: Load) -> None:
    rules = directives(load().policy)

    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert rules[name] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]


@pytest.mark.parametrize("load", [load_admin_page, load_status_page])
def test_scripts_of_the_service_can_write_no_markup(load: Load) -> None:
    rules = directives(load().policy)

    assert rules["require-trusted-types-for"] == ["'script'"]
    assert rules["trusted-types"] == ["'none'"]


@pages
def test_the_page_is_well_formed_and_says_its_language_and_width(load: Load) -> None:
    outline = Outline(load().content)

    assert outline.misplaced == []
    assert outline.open == []
    assert ("html", {"lang": "en"}) in outline.tags
    assert "viewport" in [attrs.get("name") for tag, attrs in outline.tags if tag == "meta"]


@pages
def test_the_page_has_nothing_that_its_policy_would_block(load: Load) -> None:
    outline = Outline(load().content)

    names = {name for _, attrs in outline.tags for name in attrs}

    assert [name for name in names if name.startswith("on") or name == "style"] == []


def test_the_status_page_is_one_file() -> None:
    outline = Outline(load_status_page().content)

    assert [attrs for tag, attrs in outline.tags if tag in {"script", "style"} and attrs] == []
    assert [attrs["href"] for tag, attrs in outline.tags if tag == "link"] == ["data:,"]


@pages
def test_the_page_names_no_other_host(load: Load) -> None:
    page = load().content.decode()

    assert re.findall(r"(?!http://www\.w3\.org/2000/svg)\b\w+://\S*|(?:src|href)=[\"']//\S*|@import|url\(", page) == []


def test_every_id_the_script_asks_for_exists_once() -> None:
    outline = Outline(load_status_page().content)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]

    asked = set(re.findall(r'\bat\("(\w+)"\)', outline.inline["script"][0]))

    assert len(ids) == len(set(ids))
    assert asked
    assert asked <= set(ids)


def test_the_scripts_write_no_markup_and_store_nothing() -> None:
    scripts = Outline(load_status_page().content).inline["script"][0] + load_asset("docs.js").content.decode()
    scripts += "".join(asset.content.decode() for asset in load_admin_assets().values())

    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|sessionStorage|\.cookie\b",
            scripts,
        )
        == []
    )


def test_the_documentation_addresses_each_of_its_files_by_its_content() -> None:
    outline = Outline(load_docs_page().content)

    linked = [attrs.get("src") or attrs.get("href") for tag, attrs in outline.tags if tag in {"script", "link"}]

    assert sorted(filter(None, linked)) == sorted(["data:,", *(f"docs/{content_hash(name)}/{name}" for name in ASSETS)])


@pages
def test_a_page_is_read_and_hashed_once(load: Load) -> None:
    assert load() is load()


def test_the_admin_page_links_to_files_that_exist_and_has_no_inline_source() -> None:
    outline = Outline(load_admin_page().content)
    linked = [attrs.get("src") or attrs.get("href") or "" for tag, attrs in outline.tags if tag in {"script", "link"}]

    assert outline.inline == {"script": [], "style": []}
    assert {link.rpartition("/")[2] for link in linked if link.startswith("admin/")} <= load_admin_assets().keys()
    assert {link.split("/")[1] for link in linked if link.startswith("admin/")} == {admin_version()}


def test_the_modules_of_the_admin_page_import_only_files_that_exist() -> None:
    assets = load_admin_assets()

    imported = {
        name
        for asset in assets.values()
        for name in re.findall(r'(?:} from |import\()"([^"]+)"', asset.content.decode())
    }

    assert imported
    assert imported <= {f"./{name}" for name in assets}


def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(KeyError):
        load_asset("absent.js")


def test_the_pages_load_without_a_framework() -> None:
    code = (
        "import sys; from user_service.web.static import load_status_page; load_status_page();"
        "from user_service.web.static.admin import load_admin_page; load_admin_page();"
        "print(sorted({'fastapi', 'fastapi_swagger', 'starlette', 'pydantic', 'sqlalchemy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
