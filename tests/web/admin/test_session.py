"""Keys, lost connections and what stays in the browser, on the admin page."""

import json
import time

import httpx

from support.api import create_user, unique_email, user_url
from support.browser import needs_chromium
from support.issuer import Issuer
from support.process import ServiceProcess
from support.settings import API_KEY
from support.visitor import Visitor

pytestmark = needs_chromium


def test_a_wrong_key_lets_nobody_in(admin_service: ServiceProcess, visitor: Visitor) -> None:
    visitor.open(f"{admin_service.url}/admin")
    for credential in ("wrong", "a.b.c", "ключ", "x" * 5000):
        visitor.enter("API key or token", credential)
        visitor.press("Enter")
        visitor.page.wait_for("document.querySelector('main .notice.bad, main [role=alert]') !== null")
        visitor.page.value("document.querySelector('main [role=alert]').remove()")
        assert not visitor.has("Sign out")
    assert visitor.faults() == []
    assert visitor.page.value("document.getElementById('key').value") in ("", "ключ")


def test_signing_out_forgets_the_key_and_what_was_shown(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)
    admin.write(user["email"])
    admin.press("Enter")
    admin.sees("Who changed what")
    admin.click("Sign out")

    admin.sees("You are signed out.")
    assert user["email"] not in admin.page.value("document.documentElement.outerHTML")
    assert admin.page.value("document.getElementById('find_text').value") == ""
    admin.sees("API key or token")


def test_a_token_that_expires_asks_for_another_and_what_was_entered_is_saved(
    admin_service: ServiceProcess, client: httpx.Client, people: Issuer, visitor: Visitor
) -> None:
    user = create_user(client)
    visitor.open(f"{admin_service.url}/admin#/user/{user['id']}")
    # The service allows for clocks that differ by 30 seconds.
    expires_at = int(time.time()) - 30 + 8
    visitor.sign_in(people.token(scope="users:read users:write", exp=expires_at))
    visitor.enter("Given name", "Ada")
    time.sleep(max(0.0, expires_at + 31 - time.time()))
    visitor.click("Save")
    visitor.sees("Sign in again")
    visitor.sees("The token has expired.")
    assert visitor.page.value("document.querySelector('[name=given_name]').value") == "Ada"

    visitor.enter("API key or token", people.token(scope="users:read users:write"))
    visitor.press("Enter")

    visitor.sees("The changes are saved.")
    assert client.get(user_url(user)).json()["given_name"] == "Ada"
    assert visitor.faults() == []


def test_an_expired_key_can_be_left_for_later(
    admin_service: ServiceProcess, client: httpx.Client, people: Issuer, visitor: Visitor
) -> None:
    user = create_user(client)
    visitor.open(f"{admin_service.url}/admin#/user/{user['id']}")
    expires_at = int(time.time()) - 30 + 8
    visitor.sign_in(people.token(scope="users:read users:write", exp=expires_at))
    visitor.enter("Given name", "Ada")
    time.sleep(max(0.0, expires_at + 31 - time.time()))
    visitor.click("Save")
    visitor.click("Not now")

    visitor.sees("The token has expired.")
    visitor.sees("Not saved yet: Given name")


def test_a_lost_connection_is_said_and_the_change_takes_effect_once(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)
    admin.write(user["email"])
    admin.press("Enter")
    admin.enter("Given name", "Ada")
    admin.set_online(False)
    admin.click("Save")
    admin.sees("The service does not respond. Check the connection, then try again.")
    admin.set_online(True)
    admin.click("Save")

    admin.sees("The changes are saved.")
    assert client.get(user_url(user)).json()["version"] == 2


def test_an_answer_that_is_lost_on_its_way_is_fetched_by_trying_again(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)
    admin.write(user["email"])
    admin.press("Enter")
    admin.sees("Who changed what")
    # The first answer to a change is lost after the service has applied it.
    admin.page.value(
        """(() => {
          const real = window.fetch;
          window.fetch = async (...request) => {
            const response = await real(...request);
            if (request[1].method !== "POST") return response;
            window.fetch = real;
            throw new TypeError("lost");
          };
        })()"""
    )
    admin.click("Suspend")
    admin.click("Suspend")
    admin.sees("The service does not respond.")
    assert client.get(user_url(user)).json()["status"] == "suspended"
    admin.click("Suspend")

    admin.sees("The user is suspended.")
    assert client.get(user_url(user)).json()["version"] == 2


def test_a_list_that_can_not_be_read_can_be_tried_again(client: httpx.Client, admin: Visitor) -> None:
    create_user(client)
    admin.sees("users")
    admin.set_online(False)
    admin.choose("Order", "-created_at")
    admin.sees("The service does not respond.")
    admin.set_online(True)
    admin.click("Try again")

    admin.page.wait_for("document.querySelectorAll('tbody tr').length > 0")


def test_nothing_personal_and_no_key_is_in_an_address_a_title_or_a_storage(
    admin_service: ServiceProcess, client: httpx.Client, admin: Visitor
) -> None:
    secret, email = "Zsofia", unique_email()
    user = create_user(client, email=email, given_name=secret, phone="+36201234567", username=f"{secret}-{email}")
    create_user(client, given_name=secret)
    for text in (email, "+36201234567", f"{secret}-{email}"):
        for found, end in ((secret, "#/users?found=search"), (text, f"#/user/{user['id']}")):
            admin.enter("Find users by", found)
            admin.press("Enter")
            admin.arrives_at(end)
    admin.sees("Who changed what")
    history = admin.page.send("Page.getNavigationHistory")["entries"]
    kept = json.dumps([[entry["url"], entry["title"]] for entry in history])

    assert len(history) > 3
    for personal in (secret, email.partition("@")[0], "6201234567", API_KEY):
        assert personal not in kept
        assert personal not in admin_service.read_log()
    assert admin.page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert admin.page.value("indexedDB.databases().then((found) => found.length)") in (0, {}, None)
    assert admin.page.value("navigator.serviceWorker?.controller ?? null") is None
    assert admin.page.hosts() == {admin_service.url.removeprefix("http://")}


def test_answers_are_not_kept_in_the_browsers_cache(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)
    for _ in range(2):
        admin.enter("Find users by", user["email"])
        admin.press("Enter")
        admin.sees("Who changed what")
        admin.click("Users")
        admin.sees("Status")

    responses = [e["params"]["response"] for e in admin.page.events if e["method"] == "Network.responseReceived"]
    api = [response for response in responses if "/api/v1/" in response["url"]]
    assert len(api) > 4
    assert not any(response.get("fromDiskCache") for response in api)


def test_the_address_of_a_user_works_after_signing_in(
    admin_service: ServiceProcess, client: httpx.Client, visitor: Visitor
) -> None:
    user = create_user(client)
    visitor.open(f"{admin_service.url}/admin#/user/{user['id']}")
    visitor.sign_in(API_KEY)

    visitor.sees(user["email"])


def test_a_view_that_can_not_be_fetched_can_be_tried_again(client: httpx.Client, admin: Visitor) -> None:
    create_user(client)
    admin.page.wait_for("document.querySelectorAll('tbody tr').length > 0")
    admin.set_online(False)
    admin.click("Import")
    admin.sees("The service does not respond.")
    admin.set_online(True)
    admin.click("Try again")
    admin.sees("Latest imports")
    admin.click("Users")
    admin.page.wait_for("document.querySelector('tbody tr[data-id]') !== null")  # not those of the imports
    admin.set_online(False)
    admin.tick("Select the users on this page")
    admin.sees("The service does not respond.")
    admin.set_online(True)
    admin.click("Try again")

    admin.page.wait_for("[...document.querySelectorAll('.bar button')].some((each) => each.textContent === 'Suspend')")
