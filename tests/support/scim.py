"""Requests of identity providers, and what every SCIM response has to look like."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx

from support.settings import API_KEY

BASE = "/scim/v2"
USERS = f"{BASE}/Users"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
METADATA = "urn:user-service:scim:schemas:metadata:1.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MEDIA_TYPE = "application/scim+json"


class ScimClient(httpx.Client):
    """Calls `/scim/v2` of a live server with an API key, as an identity provider does."""

    def __init__(self, port: int, credential: str = API_KEY) -> None:
        super().__init__(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {credential}", "Content-Type": MEDIA_TYPE},
            timeout=60,
        )

    def make(self, **attributes: Any) -> dict[str, Any]:
        """A new user, with a name and an address of its own unless others are given."""
        response = self.post(USERS, json=new_user(**attributes))
        assert response.status_code == 201, response.text
        return check_user(response)

    def read(self, user: dict[str, Any]) -> dict[str, Any]:
        return check_user(self.get(f"{USERS}/{user['id']}"))

    def patch_user(self, user: dict[str, Any], *operations: dict[str, Any], **options: Any) -> httpx.Response:
        body = {"schemas": [PATCH], "Operations": list(operations)}
        return self.patch(f"{USERS}/{user['id']}", json=body, **options)

    def patched(self, user: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
        return check_user(self.patch_user(user, *operations))

    def search(self, scim_filter: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The list that a filter finds, whole and well formed."""
        response = self.get(USERS, params={**({"filter": scim_filter} if scim_filter else {}), **parameters})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == MEDIA_TYPE
        found: dict[str, Any] = response.json()
        assert found["itemsPerPage"] == len(found["Resources"])
        return found

    def names(self, scim_filter: str | None = None, **parameters: Any) -> list[str]:
        return [user["userName"] for user in self.search(scim_filter, **parameters)["Resources"]]


def unique_name() -> str:
    return f"user-{uuid4().hex}@example.org"


def new_user(**attributes: Any) -> dict[str, Any]:
    name = attributes.pop("userName", None) or unique_name()
    address = name if "@" in name else unique_name()
    emails = [{"value": address, "type": "work", "primary": True}]
    return {"schemas": [CORE], "userName": name, "emails": emails, **attributes}


def check_user(response: httpx.Response) -> dict[str, Any]:
    """Asserts that a response is one user; gives it."""
    assert response.status_code in {200, 201}, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    user: dict[str, Any] = response.json()
    assert response.headers["etag"] == user["meta"]["version"]
    assert response.headers["content-location"] == user["meta"]["location"]
    assert user["meta"]["location"].endswith(f"{USERS}/{user['id']}")
    assert "password" not in user
    return user


def expect_scim_error(response: httpx.Response, status: int, scim_type: str | None = None) -> str:
    """Asserts that a response is this error in SCIM's form, with the status as a string; gives its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    error = response.json()
    expected = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": str(status)}
    if scim_type is not None:
        expected["scimType"] = scim_type
    detail = error.pop("detail")
    assert error == expected
    assert detail
    return str(detail)


def without_server(user: dict[str, Any]) -> dict[str, Any]:
    """A resource without what the service says of it."""
    return {name: value for name, value in user.items() if name not in {"id", "meta", "schemas"}}


@contextmanager
def scim_client(port: int, credential: str = API_KEY) -> Iterator[ScimClient]:
    with ScimClient(port, credential) as client:
        yield client
