"""The steps of docs/deployment.md stand in an order that works, and what the platforms do is said."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def read(name: str) -> str:
    """The text of a page, with each run of white space as one space."""
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


def test_the_namespace_is_created_before_the_secret_in_it() -> None:
    page = read("deployment.md")

    assert page.index("kubectl apply -f k8s-common/base/namespace.yaml") < page.index("kubectl create secret")
    assert (DOCS.parent / "k8s-common/base/namespace.yaml").exists()


PAGES = sorted(path.name for path in DOCS.glob("*.md") if "kubectl apply -" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_commands_name_exist(page: str) -> None:
    commands = re.findall(r"kubectl (?:apply|create)((?: (?:-f|-k|--filename) [\w./-]+)+)", read(page))
    named = [name for options in commands for name in re.findall(r" (?:-f|-k|--filename) (\S+)", options)]

    assert [name for name in named if not (DOCS.parent / name).exists()] == []


@pytest.mark.parametrize(
    ("page", "fact"),
    [
        ("events.md", "posting a batch to the broker can take as long as all retries, or hang"),
        ("function.md", "`func invoke` cannot send an API key"),
        ("function.md", "installs the packages with the Python of your machine"),
        ("deployment.md", "knative/serving#16162"),
        ("operations.md", "knative/serving#16162"),
        ("deployment.md", "Set `namespace: NAME` in your overlay"),
        ("deployment.md", "needs Knative 1.19, and that needs Kubernetes 1.32"),
    ],
)
def test_what_the_platforms_do_is_said(page: str, fact: str) -> None:
    assert fact in read(page)
