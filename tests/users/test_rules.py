"""JSON merge patch (RFC 7396)"""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_service.users.provisioning import ProvisionedUser
from user_service.users.rules import differ, merge_patch, new_user
from user_service.users.schemas import UserCreate

# The test cases of the RFC's appendix A: target, patch, result.
APPENDIX: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
SCALAR = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
KEY = st.sampled_from("abc") | st.text(max_size=3)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3), max_leaves=12
)
OBJECT = st.dictionaries(KEY, JSON, max_size=4)


def has_null(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and any(map(has_null, value.values())))


def without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX)
def test_the_examples_of_the_standard(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(JSON, JSON)
def test_neither_side_is_changed(target: Any, patch: Any) -> None:
    before = deepcopy((target, patch))

    merge_patch(target, patch)

    assert (target, patch) == before


@given(JSON, JSON)
def test_applying_a_patch_again_changes_nothing(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)

    assert merge_patch(once, patch) == once


@given(JSON)
def test_an_empty_patch_keeps_an_object_and_replaces_what_is_none(target: Any) -> None:
    assert merge_patch(target, {}) == (target if isinstance(target, dict) else {})


@given(JSON, OBJECT)
def test_what_a_patch_names_is_there_or_gone(target: Any, patch: dict[str, Any]) -> None:
    merged = merge_patch(target, patch)

    for name, value in patch.items():
        if value is None:
            assert name not in merged
        elif not isinstance(value, dict):
            assert merged[name] == value
    for name, value in (target if isinstance(target, dict) else {}).items():
        assert name in patch or merged[name] == value


@given(OBJECT)
def test_a_patch_on_nothing_is_the_patch_without_nulls(patch: dict[str, Any]) -> None:
    assert merge_patch(None, patch) == without_nulls(patch)


@given(OBJECT)
def test_a_value_does_not_differ_from_its_copy_in_another_order(value: dict[str, Any]) -> None:
    assert not differ(value, dict(reversed(deepcopy(value).items())))


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), ("1", 1), (None, False), ([], {})])
def test_json_values_that_python_may_take_for_equal_differ(one: Any, other: Any) -> None:
    assert differ({"a": [{"b": one}]}, {"a": [{"b": other}]})


@pytest.mark.parametrize("schema", [UserCreate, ProvisionedUser])
def test_a_new_user_has_what_a_document_gives_in_any_order(schema: type[UserCreate]) -> None:
    document = {
        "metadata": {"plan": "pro"},
        "preferences": {"theme": "dark"},
        "status": "pending",
        "timezone": "Europe/Berlin",
        "locale": "en-GB",
        "phone": "+4930123456",
        "display_name": "Ada L.",
        "family_name": "King",
        "given_name": "Ada",
        "username": "ada",
        "aliases": ["countess@example.org"],
        "email_verified": True,
        "email": "ada@example.org",
        "external_id": "crm-7",
    }
    assert document.keys() == UserCreate.model_fields.keys()

    for body in (document, dict(reversed(document.items()))):
        user = new_user(schema.model_validate(body))
        assert {name: getattr(user, name) for name in document} == document


@pytest.mark.parametrize("schema", [UserCreate, ProvisionedUser])
def test_a_new_user_has_each_field_of_its_body(schema: type[UserCreate]) -> None:
    values = {name: name for name in reversed(schema.model_fields)}

    user = new_user(schema.model_construct(**values))

    assert {name: getattr(user, name) for name in values} == values
    assert (user.version, user.last_login_at, user.deleted_at, user.prior_status) == (1, None, None, None)
