"""What `/scim/v2` says of itself: its configuration, types and schemas, the groups that it lacks, and its address."""

from support.scim import BASE, CORE, ENTERPRISE, METADATA, USERS, ScimClient, expect_scim_error


def test_discovery_describes_the_service(scim: ScimClient) -> None:
    config = scim.get(f"{BASE}/ServiceProviderConfig").json()
    types = scim.get(f"{BASE}/ResourceTypes").json()
    schemas = scim.get(f"{BASE}/Schemas").json()

    supported = {
        name: value["supported"] for name, value in config.items() if isinstance(value, dict) and "supported" in value
    }
    assert supported == {
        "patch": True,
        "bulk": True,
        "filter": True,
        "changePassword": False,
        "sort": True,
        "etag": True,
    }
    # RFC 9865, 4.
    assert config["pagination"] == {
        "cursor": True,
        "index": True,
        "defaultPaginationMethod": "index",
        "defaultPageSize": 200,
        "maxPageSize": 200,
        "cursorTimeout": 3600,
    }
    assert [resource["name"] for resource in types["Resources"]] == ["User"]
    assert [schema["id"] for schema in schemas["Resources"]] == [CORE, ENTERPRISE, METADATA]
    for path in ("ResourceTypes/User", f"Schemas/{CORE}", f"Schemas/{METADATA}"):
        found = scim.get(f"{BASE}/{path}")
        assert found.json()["meta"]["location"].endswith(f"{BASE}/{path}")
    expect_scim_error(scim.get(f"{BASE}/Schemas", params={"filter": 'id eq "x"'}), 403)


def test_there_are_no_groups(scim: ScimClient) -> None:
    listed = scim.get(f"{BASE}/Groups", params={"filter": 'displayName eq "engineers"'})

    assert (listed.status_code, listed.json()["totalResults"], listed.json()["Resources"]) == (200, 0, [])
    expect_scim_error(scim.get(f"{BASE}/Groups/1"), 404)
    expect_scim_error(scim.post(f"{BASE}/Groups", json={"displayName": "engineers"}), 501)


def test_locations_follow_what_the_request_says_of_the_base_url(scim: ScimClient) -> None:
    created = scim.make()
    headers = {"Host": "users.example.org", "X-Forwarded-Proto": "https, http"}

    shown = scim.get(f"{USERS}/{created['id']}", headers=headers)

    assert shown.json()["meta"]["location"] == f"https://users.example.org{USERS}/{created['id']}"
