"""CSV as spreadsheets write it, and as people mistype it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.record_files import read, read_numbered
from user_service.users.imports.csv_columns import COLUMNS
from user_service.users.imports.lines import MAX_LINE_BYTES, UnreadableFile
from user_service.users.imports.records import BadRecord

PEOPLE = [{"email": "a@b.org", "given_name": "Ada"}, {"email": "b@b.org", "given_name": "Bo"}]
# One piece, as a small body comes, and many, as a large one comes.
SIZES = (1, 7, 100_000)


def refusal(content: bytes) -> UnreadableFile:
    with pytest.raises(UnreadableFile) as refused:
        read("csv", content)
    return refused.value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_line_ends_of_spreadsheets(separator: str, end: str, size: int) -> None:
    rows = ["email,given_name", "a@b.org,Ada", "b@b.org,Bo", ""]
    content = end.join(rows).replace(",", separator).encode()
    assert read("csv", content, size) == PEOPLE


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\nemail;given_name\na@b.org;Ada\nb@b.org;Bo\n",
        b"\xef\xbb\xbfsep=,\r\nemail,given_name\r\na@b.org,Ada\r\nb@b.org,Bo\r\n",
        b"EMail, Given_Name\n a@b.org ,\tAda\nb@b.org,Bo \n",
        b"email,given_name,\na@b.org,Ada,\nb@b.org,Bo,,,\n",
        b"\n , \nemail,given_name,phone\n\na@b.org,Ada\n,,\n  \nb@b.org,Bo,\n,",
        b'email,given_name\na@b.org, "Ada"\n"b@b.org","Bo"',
        b'"email" , "given_name"  \r\n "a@b.org" ,"Ada" \r\n"b@b.org"  ,  "Bo"\t',
        b'email;given_name\n"a@b.org"\t ;Ada\nb@b.org ; "Bo" ;\n',
        b"sep=;;;\nemail;given_name;\na@b.org;Ada;\nb@b.org;Bo;\n",
        b'"sep=,",,\nemail,given_name,\na@b.org,Ada,\nb@b.org,Bo,\n',
        b"SEP=\t\r\nemail\tgiven_name\r\na@b.org\tAda\r\nb@b.org\tBo\r\n",
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_what_spreadsheets_leave_around_cells_is_harmless(content: bytes, size: int) -> None:
    assert read("csv", content, size) == PEOPLE


def test_aliases_are_one_cell() -> None:
    cells = ["a@b.org", '"a@b.org b@b.org"', "a@b.org; b@b.org ;", "", ";"]
    records = read("csv", ("email,aliases\n" + "\n".join(f"x@b.org,{cell}" for cell in cells)).encode())
    both = ["a@b.org", "b@b.org"]
    assert [record.get("aliases") for record in records if isinstance(record, dict)] == [both[:1], both, both, None, []]


def test_booleans_of_spreadsheets() -> None:
    cells = ["TRUE", "false", "1", "0", "Yes", "NO", "maybe"]
    content = "email_verified\n" + "\n".join(cells)
    *records, last = read("csv", content.encode())
    assert [record["email_verified"] for record in records if isinstance(record, dict)] == [
        *(True, False, True, False, True, False)
    ]
    assert last == BadRecord(
        "validation_failed", "must be one of true, false, 1, 0, yes, no (bool_type)", "email_verified"
    )


CELLS = st.text(st.sampled_from('ab" ,;\r\n'), max_size=8)
BLANKS = st.sampled_from(["", " ", "  ", "\t"])


@given(st.lists(st.tuples(CELLS, BLANKS, BLANKS), min_size=2, max_size=4), st.sampled_from([1, 5, 100]))
def test_spaces_around_quotes_change_no_cell(cells: list[tuple[str, str, str]], size: int) -> None:
    """Of each cell: its text, the spaces before its quotes, which can't be tabs, and those after them."""
    names = [f"metadata.{number}" for number in range(len(cells))]
    row = ",".join(before.strip("\t") + '"' + text.replace('"', '""') + '"' + after for text, before, after in cells)
    expected = {str(number): text.strip() for number, (text, _, _) in enumerate(cells) if text.strip()}

    records = read("csv", f"{','.join(names)}\n{row}\n".encode(), size)

    assert records == ([{"metadata": expected}] if expected else [])


@pytest.mark.parametrize("row", [b'"Ada" x,b', b'"Ada"x,"b"', b'"Ada" "b",c', b'a,"Ada" "', b'"a"" ,b" c,"d"'])
def test_text_after_a_closing_quote_fails_its_row(row: bytes) -> None:
    (first, last) = read("csv", b"given_name,family_name\n" + row + b"\nBo,Bo\n")

    assert isinstance(first, BadRecord)
    assert first.code == "malformed_csv"
    assert last == {"given_name": "Bo", "family_name": "Bo"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_quote_inside_a_cell_is_a_character_in_files_of_any_size(rows: int, size: int) -> None:
    content = ("email,given_name\n" + 'a@b.org,Ada 6" Lovelace\n' * rows + "b@b.org,Bo\n").encode()
    if size == 1:
        content = content[-5_000:] if rows == 1 else b"email,given_name\n" + content[-5_000:].split(b"\n", 1)[1]
    records = read("csv", content, size)
    assert {record["given_name"] for record in records if isinstance(record, dict)} == {'Ada 6" Lovelace', "Bo"}
    assert not any(isinstance(record, BadRecord) for record in records)


def test_an_open_quote_fails_its_record_and_says_where_it_opened() -> None:
    rows = [f"u{number}@b.org,Ada" for number in range(200)]
    rows[10] = 'u10@b.org,"Ada'
    records = read_numbered("csv", ("email,given_name\n" + "\n".join(rows)).encode())
    line, failure = records[-1]
    assert (len(records), line) == (11, 12)
    assert isinstance(failure, BadRecord)
    assert failure.code == "unclosed_quote"
    assert "opens in line 12, cell 2" in failure.detail
    assert "lines 12 to 201" in failure.detail


@pytest.mark.parametrize("size", [4096, 10**7])
@pytest.mark.parametrize("closed", [True, False])
def test_a_row_that_is_too_long_fails_alone_where_its_quote_closes(size: int, closed: bool) -> None:
    cell = "a line, with a separator\n" * (MAX_LINE_BYTES // 10)
    end = '"\nb@b.org,Bo\n' if closed else ""
    content = f'email,given_name\na@b.org,"{cell}{end}'.encode()
    records = read_numbered("csv", content, size)
    line, failure = records[0]
    assert isinstance(failure, BadRecord)
    assert (line, failure.code) == (2, "record_too_long" if closed else "unclosed_quote")
    assert "in line 2" in failure.detail
    assert records[1:] == ([(MAX_LINE_BYTES // 10 + 3, PEOPLE[1])] if closed else [])


def test_an_open_quote_is_not_held_in_memory() -> None:
    from user_service.users.imports.parsers import CsvParser

    parser = CsvParser()
    assert not list(parser.feed(b'email\n"'))
    for _ in range(50):
        assert not list(parser.feed(b"x" * 100_000 + b"\n"))
        assert parser.rows is not None
        assert sum(map(len, parser.rows.open_cell or ())) <= 2 * MAX_LINE_BYTES


def test_a_row_after_a_faulty_one_is_read() -> None:
    content = b'email,given_name\n"a@b.org"x,"Ada\nb@b.org,Bo\n'
    assert [line for line, _ in read_numbered("csv", content)] == [2, 3]
    assert read("csv", content)[1] == PEOPLE[1]


def test_records_have_the_lines_that_they_begin_in() -> None:
    content = b'email,given_name\n\na@b.org,"Ada\nLovelace"\r\nb@b.org,Bo\n'
    assert [line for line, _ in read_numbered("csv", content)] == [3, 5]


def test_a_byte_that_is_not_utf8_fails_its_record_and_says_where() -> None:
    content = b"email,given_name\na@b.org,Ada\nj@b.org,Jos\xe9\nb@b.org,Bo\n"
    (_, first), (line, failure), (_, last) = read_numbered("csv", content)
    assert [first, last] == PEOPLE
    assert isinstance(failure, BadRecord)
    assert (line, failure.code, failure.field) == (3, "encoding", "given_name")
    assert "byte 0xE9" in failure.detail
    assert "save the file as CSV UTF-8" in failure.detail


@pytest.mark.parametrize(
    ("content", "seen", "remedy"),
    [
        (b"PK\x03\x04\x14\0\x06\0", "Excel workbook (.xlsx)", "save it as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel workbook", "save it as CSV UTF-8"),
        ("email\na@b.org\n".encode("utf-16"), "UTF-16", "save it as CSV UTF-8"),
        ("email\na@b.org\n".encode("utf-16-le"), "UTF-16", "save it as CSV UTF-8"),
        ("email\na@b.org\n".encode("utf-16-be"), "UTF-16", "save it as CSV UTF-8"),
        ("email\na@b.org\n".encode("utf-32-be"), "UTF-16", "save it as CSV UTF-8"),
        (b"PK\x05\x06" + bytes(18), "empty ZIP archive", "save it as CSV UTF-8"),
        (b"<!DOCTYPE html><html>", "HTML", "save it as CSV UTF-8"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip", "send it unpacked"),
        (b"BZh91AY&SY", "bzip2", "send it unpacked"),
        (b"\xfd7zXZ\0", "xz", "send it unpacked"),
        (b"\x28\xb5\x2f\xfd\x04", "Zstandard", "send it unpacked"),
        (b'[{"email": "a@b.org"}]\n', "JSON array", "one object a line"),
        (b"sep=\xa7\nemail\n", "and names '\\udca7'", "a comma, a semicolon or a tab"),
        (b"sep=\nemail\n", "and names ''", "a comma, a semicolon or a tab"),
        (b"sep=;x\nemail\n", "and names ';x'", "a comma, a semicolon or a tab"),
        (b"email|given_name\na@b.org|Ada\n", "column 1", "a comma, a semicolon or a tab"),
        (b'{"email": "a@b.org"}\n', "NDJSON", "application/x-ndjson"),
        ("email,prénom\n".encode("cp1252"), "header is not UTF-8", "save it as CSV UTF-8"),
        (b"sep=|\nemail|given_name\n", "sep=", "a comma, a semicolon or a tab"),
        (b"email\n" + b"x" * (MAX_LINE_BYTES + 1), "Line 2: the line is longer", "line ends may be missing"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(content: bytes, seen: str, remedy: str) -> None:
    refused = refusal(content)
    said = " ".join([refused.detail, *(fault.detail for fault in refused.errors)])
    assert seen in said
    assert remedy in said


@pytest.mark.parametrize(
    ("content", "seen", "remedy"),
    [
        (b"email,given_name\na@b.org,Ada\n", "CSV", "text/csv"),
        (b'given_name;"EMail";phone\n', "CSV", "text/csv"),
        (b"id\n1\n", "CSV", "text/csv"),
        (b'{\n  "email": "a@b.org"\n}\n', "several lines", "jq -c ."),
        ('{"email": "a@b.org"}\n'.encode("utf-16-le"), "UTF-16", "UTF-8"),
        (b"BZh91AY&SY", "bzip2", "send it unpacked"),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_is_no_ndjson_is_refused_by_name(content: bytes, seen: str, remedy: str, size: int) -> None:
    with pytest.raises(UnreadableFile) as refused:
        read("ndjson", content, size)

    assert seen in refused.value.detail
    assert remedy in refused.value.detail


def test_an_unknown_column_is_named_with_the_known_ones() -> None:
    refused = refusal(b"email,shoe_size,Given_Name,email\na@b.org,5,Ada,\n")
    assert [fault.detail for fault in refused.errors] == [
        "column 2 ('shoe_size') does not name a field",
        "column 4 names the same field as column 1",
    ]
    assert ", ".join(COLUMNS) in refused.detail
    assert "unknown_columns=ignore" in refused.detail


def test_unknown_columns_can_be_passed_over() -> None:
    content = b"email,shoe_size,given_name,\na@b.org,5,Ada,\nb@b.org,,Bo,7\n"
    records = read_numbered("csv", content, unknown_columns="ignore")
    assert records[0] == (2, PEOPLE[0])
    assert isinstance(records[1][1], BadRecord)


@pytest.mark.parametrize("content", [b'[{"email": "a@b.org"}]', b'\xef\xbb\xbf\n [\n{"email": "a@b.org"}\n]'])
@pytest.mark.parametrize("size", SIZES)
def test_a_json_array_is_refused_by_name(content: bytes, size: int) -> None:
    with pytest.raises(UnreadableFile, match="JSON array"):
        read("ndjson", content, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_ndjson_takes_a_byte_order_mark_and_any_line_end(end: bytes, size: int) -> None:
    content = end.join([b'\xef\xbb\xbf{"a": 1}', b"", b'{"a": 2}'])
    assert read_numbered("ndjson", content, size) == [(1, {"a": 1}), (3, {"a": 2})]
