"""Draws five views of the admin page as docs/admin-*.png: `python scripts/draw_admin.py`.

Starts a service with an embedded PostgreSQL and invented users; needs Chromium.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from support.browser import browsing  # noqa: E402 - the path comes first
from support.process import serving  # noqa: E402
from support.settings import API_KEY  # noqa: E402
from support.visitor import Visitor  # noqa: E402

DOCS: Final = ROOT / "docs"
USERS: Final = "/api/v1/users"
PEOPLE: Final = [
    ("Ada", "Lovelace", "en-GB", "pro"),
    ("محمد بن موسى", "الخوارزمي", "ar", "pro"),
    ("Grace", "Hopper", "en-US", "free"),
    ("Zoë", "Ångström", "sv", "pro"),
    ("Σοφία", "Παπαδοπούλου", "el", "free"),
    ("Đorđe", "Šimić", "hr", "free"),
    ("Mary", "Jackson", "en-US", "pro"),
    ("עדה", "יונת", "he", "pro"),
    ("Edsger", "Dijkstra", "nl", "free"),
    ("Radia", "Perlman", "en-US", "pro"),
    ("Sofja", "Kowalewskaja", "ru", "free"),
    ("Annie", "Easley", "en-US", "free"),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder) as service, service.client() as client, browsing(folder) as page:
            users = create_users(client)
            visitor = Visitor(page)
            visitor.set_width(1200, 960)
            visitor.open(f"{service.url}/admin")
            visitor.sign_in(API_KEY)
            draw_list(visitor)
            draw_dry_run(visitor, client, users)
            draw_user(visitor, users[0])
            draw_conflict(visitor, client, users[0])
            draw_import(visitor, folder)


def create_users(client: httpx.Client) -> list[dict[str, Any]]:
    users = [
        {
            "email": f"person-{number}@example.org",
            "given_name": given,
            "family_name": family,
            "locale": locale,
            "phone": f"+4420718387{number:02}",
            "metadata": {"plan": plan},
        }
        for number, (given, family, locale, plan) in enumerate(PEOPLE, 1)
    ]
    made = [client.post(USERS, json=user).raise_for_status().json() for user in users]
    client.post(f"{USERS}/{made[2]['id']}/suspend", headers={"X-Change-Reason": "ticket 4711"}).raise_for_status()
    client.patch(f"{USERS}/{made[0]['id']}", json={"timezone": "Europe/London"}).raise_for_status()
    return made


def draw(visitor: Visitor, name: str) -> None:
    """Draws what the window shows, from the top of the page."""
    visitor.page.value("window.scrollTo(0, 0)")
    visitor.page.screenshot(DOCS / f"admin-{name}.png", whole=False)


def draw_list(visitor: Visitor) -> None:
    visitor.page.value("location.hash = '#/users?columns=name,email,status,metadata,updated_at'")
    visitor.sees(f"{len(PEOPLE)} users")
    visitor.sees("person-12@example.org")
    draw(visitor, "list")


def draw_dry_run(visitor: Visitor, client: httpx.Client, users: list[dict[str, Any]]) -> None:
    visitor.click("Select all")
    visitor.sees("users selected")
    client.patch(f"{USERS}/{users[4]['id']}", json={"locale": "el-GR"}).raise_for_status()
    visitor.click("Suspend")
    visitor.sees("can be suspended")
    draw(visitor, "dry-run")
    visitor.click("Cancel")


def draw_user(visitor: Visitor, user: dict[str, Any]) -> None:
    visitor.page.value(f"location.hash = '#/user/{user['id']}'")
    visitor.sees("Remove for good")
    visitor.page.wait_for("document.querySelectorAll('.timeline li').length === 2")
    draw(visitor, "user")


def draw_conflict(visitor: Visitor, client: httpx.Client, user: dict[str, Any]) -> None:
    visitor.enter("Phone", "+44 20 7183 8751")
    visitor.enter("Locale", "fr")
    client.patch(f"{USERS}/{user['id']}", json={"locale": "de"}).raise_for_status()
    visitor.click("Save")
    visitor.sees("changed by both")
    draw(visitor, "conflict")
    visitor.click("Discard my changes")
    visitor.sees("Your changes are discarded.")


def draw_import(visitor: Visitor, folder: Path) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    visitor.page.send("Emulation.setEmulatedMedia", features=dark)
    path = folder / "new-people.csv"
    path.write_text("email;given_name;metadata.plan\nnew-1@example.org;Rósa;pro\nnew-2@example;Emmy;free\n")
    visitor.click("Import")
    visitor.give_files("Drop a file of CSV or NDJSON here", path)
    visitor.click("Dry run")
    visitor.sees("Dry run: what would happen")
    visitor.page.wait_for("document.querySelector('section[aria-labelledby=result] table') !== null")
    draw(visitor, "import")


if __name__ == "__main__":
    main()
