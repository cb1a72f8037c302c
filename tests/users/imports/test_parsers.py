"""Files of users as streams of records."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.record_files import read
from user_service.users.imports.lines import MAX_LINE_BYTES, UnreadableFile
from user_service.users.imports.parsers import NdjsonParser
from user_service.users.imports.records import BadRecord, Record


def codes(records: list[Record]) -> Iterator[str | None]:
    return (record.code if isinstance(record, BadRecord) else None for record in records)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=20), st.integers(1, 50)
)
def test_ndjson_is_read_the_same_in_pieces_of_any_size(documents: list[dict[str, str]], size: int) -> None:
    content = "".join(json.dumps(document) + "\n" for document in documents).encode()
    assert read("ndjson", content, size) == documents


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20), max_size=9
    ),
    st.integers(1, 50),
)
def test_a_csv_cell_may_hold_anything_between_quotes(names: list[str], size: int) -> None:
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}",x' for name in names]
    content = "\r\n".join(["given_name,family_name", *rows]).encode()
    records = [{"given_name": name.strip(), "family_name": "x"} for name in names]
    assert read("csv", content, size) == [{key: cell for key, cell in record.items() if cell} for record in records]


def test_a_last_line_needs_no_end() -> None:
    assert read("ndjson", b'{"a": 1}\n\n  \n{"a": 2}') == [{"a": 1}, {"a": 2}]
    assert read("csv", b"email\na@b.org") == [{"email": "a@b.org"}]


def test_a_line_that_is_no_object_fails_alone() -> None:
    records = read("ndjson", b'{"a": 1}\n{bad\n[1]\n"\xff"\n{"a": 2}\n')
    assert list(codes(records)) == [None, "malformed_json", "not_an_object", "malformed_json", None]


def test_a_line_without_end_is_not_held_in_memory() -> None:
    parser = NdjsonParser()
    for _ in range(100):
        assert not list(parser.feed(b"x" * MAX_LINE_BYTES))
        assert parser.splitter.size <= 2 * MAX_LINE_BYTES
    records = [record for _, record in parser.feed(b'\n{"a": 1}\n')]
    assert list(codes(records)) == ["record_too_long", None]


def test_csv_cells_become_the_types_of_their_fields() -> None:
    content = (
        b"\xef\xbb\xbfemail,email_verified,metadata.plan,metadata,preferences,phone\n"
        b'a@b.org,TRUE,pro,"{""seats"": 5}","{""a"": [1]}",\n'
    )
    assert read("csv", content) == [
        {
            "email": "a@b.org",
            "email_verified": True,
            "metadata": {"plan": "pro", "seats": 5},
            "preferences": {"a": [1]},
        }
    ]


def test_a_wrong_row_fails_alone() -> None:
    records = read("csv", b'email,metadata\na@b.org,{bad\na@b.org,,x\n"a"b,c\n\nc@b.org,\n')
    assert list(codes(records)) == ["malformed_json", "wrong_number_of_cells", "malformed_csv", None]


@pytest.mark.parametrize("header", [b"email,shoe_size\n", b"email,email\n"])
def test_a_header_that_does_not_fit_is_refused(header: bytes) -> None:
    with pytest.raises(UnreadableFile) as refused:
        read("csv", header + b"a,b\n")
    assert refused.value.errors[0].pointer == "/header"


def test_a_missing_header_does_not_bring_a_person_into_the_error() -> None:
    row = "ada@example.org,Ada Lovelace," + ",".join(f"cell{number}" for number in range(500))
    with pytest.raises(UnreadableFile) as refused:
        read("csv", row.encode() + b"\n", size=4096)
    faults = refused.value.errors
    assert faults[1].detail == "column 2 does not name a field"
    assert len(faults) <= 20
    assert not any(told in f"{refused.value.detail}{faults}" for told in ("ada@", "Lovelace", "cell"))


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_a_row_ends_at_line_ends_alone(character: str) -> None:
    name = f"Ann{character}Lee"
    assert read("csv", f"given_name\n{name}\nBea\n".encode()) == [{"given_name": name}, {"given_name": "Bea"}]


def test_a_cell_of_many_lines_is_read_in_small_pieces() -> None:
    """Looked at anew with every piece or line, these lines would take minutes."""
    cell = "x" + "\n" * 200_000 + "x"
    assert read("csv", f'given_name\n"{cell}"\nBea\n'.encode(), size=512) == [
        {"given_name": cell},
        {"given_name": "Bea"},
    ]


def test_a_record_that_is_nested_too_deeply_fails_alone() -> None:
    deep = b'{"preferences": ' + b"[" * 300 + b"1" + b"]" * 300 + b"}"
    wide = json.dumps({"preferences": [[] for _ in range(300)]}).encode()

    assert list(codes(read("ndjson", deep + b"\n" + wide + b"\n" + b'{"a": 1}\n'))) == ["too_deep", None, None]
