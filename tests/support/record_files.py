"""Files of users as the parsers read them, in pieces."""

from user_service.users.imports.csv_columns import UnknownColumns
from user_service.users.imports.parsers import make_parser
from user_service.users.imports.records import NumberedRecord, Record


def read_numbered(
    file_format: str, content: bytes, size: int = 7, unknown_columns: UnknownColumns = "fail"
) -> list[NumberedRecord]:
    parser = make_parser(file_format, unknown_columns=unknown_columns)
    records = [
        record for start in range(0, len(content), size) for record in parser.feed(content[start : start + size])
    ]
    return records + list(parser.end())


def read(file_format: str, content: bytes, size: int = 7) -> list[Record]:
    return [record for _, record in read_numbered(file_format, content, size)]
