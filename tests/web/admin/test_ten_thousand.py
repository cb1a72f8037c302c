"""Ten thousand users on the admin page."""

import json
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from support.api import USERS
from support.browser import needs_chromium
from support.process import ServiceProcess
from support.visitor import Visitor

pytestmark = needs_chromium
COUNT = 10_000
TOTAL = f"{COUNT:,} users"


@pytest.fixture(scope="module")
def plan(admin_service: ServiceProcess) -> Iterator[str]:
    plan = f"plan-{uuid4().hex[:8]}"
    records = (
        json.dumps({"email": f"{plan}-{n}@example.org", "family_name": f"Number {n}", "metadata": {"plan": plan}})
        for n in range(COUNT)
    )
    with admin_service.client() as client:
        headers = {"Content-Type": "application/x-ndjson"}
        done = client.post(f"{USERS}/imports", content="\n".join(records), headers=headers)
        assert done.json()["created"] == COUNT
        yield plan


def test_they_are_listed_selected_and_changed(client: httpx.Client, admin: Visitor, plan: str) -> None:
    admin.page.value(f"location.hash = '#/users?metadata.plan={plan}&limit=200'")
    admin.sees(TOTAL)
    admin.click("Next page")
    admin.page.wait_for("document.querySelectorAll('tbody tr').length === 200")
    admin.click("Select all")
    admin.sees(f"{TOTAL} selected")
    assert admin.page.value("document.querySelectorAll('tbody input:checked').length") == 200
    admin.click("Suspend")
    admin.sees(f"Dry run: {TOTAL} can be suspended, 0 can not.")
    admin.click(f"Suspend {TOTAL}")
    admin.sees(f"{TOTAL} suspended, 0 failed.")

    query = {"metadata.plan": plan, "status": "suspended", "count": "true", "limit": 1}
    assert client.get(USERS, params=query).json()["total"] == COUNT
    assert admin.faults() == []


def test_a_run_that_is_stopped_says_how_far_it_came(client: httpx.Client, admin: Visitor, plan: str) -> None:
    admin.page.value(f"location.hash = '#/users?metadata.plan={plan}&limit=200'")
    admin.sees(TOTAL)
    admin.click("Select all")
    admin.sees(f"{TOTAL} selected")
    admin.click("Delete")
    admin.click("Stop")
    admin.sees("It was stopped:")
    admin.click("Cancel")

    query = {"metadata.plan": plan, "count": "true", "limit": 1}
    assert client.get(USERS, params=query).json()["total"] == COUNT
