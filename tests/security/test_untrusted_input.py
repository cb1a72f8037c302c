"""Parsers of untrusted input: each input is accepted or refused, and causes no other error."""

import asyncio
import re
from contextlib import suppress

import jwt
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.issuer import AUDIENCE, Issuer, make_jwk
from user_service.errors import BadRequest, InvalidCursor, InvalidHeader, Unauthenticated, ValidationFailed
from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.security.authentication import read_credential
from user_service.security.issuers import TrustedIssuer
from user_service.security.jwks import parse_jwks
from user_service.security.jwt_verifier import JwtVerifier, read_unverified, verify_claims
from user_service.users.cursors import Cursor, CursorCodec
from user_service.values.emails import normalise_email
from user_service.values.ids import id_time, new_id, parse_canonical_id, parse_id
from user_service.web.fast_path import includes_deleted
from user_service.web.preconditions import matches_etag, parse_versions

TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
near_traceparents = st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}.*", fullmatch=True)
segments = st.from_regex(r"[A-Za-z0-9_=-]{0,40}", fullmatch=True)


@given(st.none() | st.binary(max_size=200) | near_traceparents)
def test_a_response_has_a_trace_whatever_was_sent(sent: bytes | None) -> None:
    made = continue_trace(sent)

    assert TRACEPARENT.fullmatch(made)
    assert made[3:35] != b"0" * 32
    assert made[36:52] != b"0" * 16


@given(st.none() | st.binary(max_size=200))
def test_a_response_has_an_id_that_is_safe_in_a_log(sent: bytes | None) -> None:
    assert REQUEST_ID.fullmatch(choose_request_id(sent))


@given(st.text(max_size=300), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_a_cursor_that_was_not_given_out_is_refused(text: str, query: dict[str, str]) -> None:
    with pytest.raises(InvalidCursor):
        CursorCodec(b"k" * 32).decode(text, query=query)


@given(st.data())
def test_a_cursor_that_was_altered_is_refused(data: st.DataObject) -> None:
    codec, user_id = CursorCodec(b"k" * 32), new_id()
    cursor = codec.encode(Cursor(id_time(user_id), user_id), query={})
    place = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    altered = cursor[:place] + letter + cursor[place + 1 :]

    if altered == cursor:
        assert codec.decode(altered, query={}).id == user_id
    else:
        with pytest.raises(InvalidCursor):
            codec.decode(altered, query={})


@given(st.binary(max_size=50) | st.from_regex(rb'\s*((W/)?"[0-9]{0,12}"[ ,]*){0,3}\s*', fullmatch=True))
def test_if_match_is_a_set_of_versions_or_refused(field: bytes) -> None:
    with suppress(InvalidHeader):
        versions = parse_versions(field, "If-Match", weak=False)
        assert all(1 <= version < 10**10 for version in versions.named)
        assert versions.every == (field.strip() == b"*")


@given(st.binary(max_size=100), st.integers(1, 2**31))
def test_if_none_match_never_fails(condition: bytes, version: int) -> None:
    assert matches_etag(condition, version) in {True, False}
    assert matches_etag(b'"other", W/"%d"' % version, version)
    assert not matches_etag(b'"1, %d"' % version, version)


@given(st.binary(max_size=200))
def test_a_query_asks_for_the_deleted_or_is_refused(query: bytes) -> None:
    with suppress(BadRequest, ValidationFailed):
        assert includes_deleted(query) in {True, False}


@given(st.text(max_size=40) | st.uuids().map(str))
def test_ids_are_read_or_not(text: str) -> None:
    for read in (parse_id, parse_canonical_id):
        user_id = read(text)
        assert user_id is None or user_id.hex == text.replace("-", "").lower()


@given(st.dictionaries(st.sampled_from([b"authorization", b"x-api-key"]), st.binary(max_size=100)))
def test_credentials_are_found_or_refused(headers: dict[bytes, bytes]) -> None:
    with suppress(Unauthenticated):
        assert read_credential(headers) in {b for value in headers.values() for b in (value, value[7:].strip())}


@given(st.binary(max_size=300) | st.tuples(segments, segments, segments).map(lambda parts: ".".join(parts).encode()))
def test_text_that_is_no_token_is_refused(token: bytes) -> None:
    with pytest.raises(Unauthenticated):
        read_unverified(token)


@pytest.fixture(scope="module")
def forger() -> Issuer:
    """Has an issuer's real key, and says what it likes."""
    made = Issuer(0)
    made.add_key()
    return made


@settings(max_examples=200)
@given(
    claims=st.dictionaries(
        st.sampled_from(["exp", "nbf", "iat", "sub", "aud", "iss", "scope", "scp", "scopes", "jti"]), json_values
    )
)
def test_signed_claims_of_any_shape_are_accepted_or_refused(forger: Issuer, claims: dict[str, object]) -> None:
    key_id, private = next(iter(forger.private.items()))
    trust = TrustedIssuer("jwt", forger.url, AUDIENCE, forger.jwks_url)
    payload = orjson.dumps({**forger.claims(), **claims})
    token = jwt.api_jws.encode(payload, private, "ES256", headers={"kid": key_id}).encode()
    public = parse_jwks(orjson.dumps({"keys": [make_jwk(private, key_id)]}))[key_id].public

    with suppress(Unauthenticated):
        verified = verify_claims(token, trust, public, "ES256")
        assert verified.issuer == forger.url
        assert verified.subject.isprintable()
        assert verified.scopes == frozenset(map(str, verified.scopes))


@given(st.binary(max_size=300) | json_values.map(lambda value: repr(value).encode("utf-8", "replace")))
def test_a_document_that_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_jwks(document)


@given(st.text(max_size=100) | st.from_regex(r"[^@\s]{1,20}@[^@\s]{1,20}", fullmatch=True))
def test_an_address_is_normalised_once_and_for_all(text: str) -> None:
    with suppress(ValueError):
        address = normalise_email(text)
        assert normalise_email(address) == address


def test_rules_without_issuers_refuse(forger: Issuer) -> None:
    with pytest.raises(Unauthenticated, match="issuer"):
        asyncio.run(JwtVerifier([]).verify(forger.token().encode()))
