import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from user_service.web.static import load_page

pages = pytest.mark.parametrize("name", ["docs.html", "status.html"])
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


@pages
@pytest.mark.parametrize("kind", ["script", "style"])
def test_the_policy_allows_exactly_the_inline_sources_of_the_page(kind: str, name: str) -> None:
    page, policy = load_page(name)

    sources = Outline(page).inline[kind]

    assert len(sources) == 1
    assert directives(policy)[f"{kind}-src"] == [hash_source(source) for source in sources]


@pages
def test_the_policy_closes_what_the_page_does_not_need(name: str) -> None:
    rules = directives(load_page(name)[1])

    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert rules[name] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    assert rules["require-trusted-types-for"] == ["'script'"]


@pages
def test_the_page_is_well_formed_and_says_its_language_and_width(name: str) -> None:
    outline = Outline(load_page(name)[0])

    assert outline.misplaced == []
    assert outline.open == []
    assert ("html", {"lang": "en"}) in outline.tags
    assert "viewport" in [attrs.get("name") for tag, attrs in outline.tags if tag == "meta"]


@pages
def test_the_page_has_nothing_that_its_policy_would_block(name: str) -> None:
    outline = Outline(load_page(name)[0])

    names = {name for _, attrs in outline.tags for name in attrs}

    assert [name for name in names if name.startswith("on") or name in {"style", "src"}] == []
    assert [attrs for tag, attrs in outline.tags if tag in {"script", "style"} and attrs] == []


@pages
def test_the_page_names_no_other_host(name: str) -> None:
    page = load_page(name)[0].decode()

    assert re.findall(r"(?!http://www\.w3\.org/2000/svg)\b\w+://\S*|(?:src|href)=[\"']//\S*|@import|url\(", page) == []


@pages
def test_every_id_the_script_asks_for_exists_once(name: str) -> None:
    outline = Outline(load_page(name)[0])
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]

    asked = set(re.findall(r'\bat\("(\w+)"\)', outline.inline["script"][0]))

    assert len(ids) == len(set(ids))
    assert asked
    assert asked <= set(ids)


@pages
def test_the_script_writes_no_markup_and_stores_nothing(name: str) -> None:
    script = Outline(load_page(name)[0]).inline["script"][0]

    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|sessionStorage|\.cookie\b",
            script,
        )
        == []
    )


def test_a_page_is_read_and_hashed_once() -> None:
    assert load_page("docs.html") is load_page("docs.html")


def test_an_unknown_page_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        load_page("absent.html")


def test_pages_load_without_a_framework() -> None:
    code = (
        "import sys; from user_service.web.static import load_page; load_page('docs.html');"
        "print(sorted({'fastapi', 'starlette', 'pydantic', 'sqlalchemy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
