"""Files as lines: where they are cut, and what their first bytes say about files of another kind."""

from typing import Final

from user_service.errors import FieldError, ValidationFailed

MAX_LINE_BYTES: Final = 256 * 1024
BOM: Final = b"\xef\xbb\xbf"
SIGNATURE_BYTES: Final = 4
SAVE_AS_CSV: Final = "save it as CSV UTF-8"
SAVE_AS_UTF8: Final = f"{SAVE_AS_CSV}, or as NDJSON in UTF-8"
SEND_UNPACKED: Final = "send it unpacked"
JSON_ARRAY: Final = (
    "the file is a JSON array, which is not taken: send one object a line (NDJSON), as `jq -c '.[]' users.json` writes."
)
# The first bytes of files that people send by mistake: what they are, and the remedy.
SIGNATURES: Final = {
    b"PK\x03\x04": ("an Excel workbook (.xlsx), an .ods file or another ZIP archive", SAVE_AS_CSV),
    b"PK\x05\x06": ("an empty ZIP archive", SAVE_AS_CSV),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook (.xls)", SAVE_AS_CSV),
    b"\xff\xfe": ("text in UTF-16", SAVE_AS_UTF8),
    b"\xfe\xff": ("text in UTF-16", SAVE_AS_UTF8),
    b"\x1f\x8b": ("compressed by gzip", SEND_UNPACKED),
    b"BZh": ("compressed by bzip2", SEND_UNPACKED),
    b"\xfd7zX": ("compressed by xz", SEND_UNPACKED),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", SEND_UNPACKED),
    b"%PDF": ("a PDF document", SAVE_AS_CSV),
    b"<": ("HTML or XML", SAVE_AS_CSV),
}


class UnreadableFile(ValidationFailed):
    """The file can't be read from `line` on. `detail` names what was seen and the remedy, and quotes no record."""

    def __init__(self, line: int, detail: str, *, code: str = "unreadable_file", pointer: str = "") -> None:
        super().__init__(f"Line {line}: {detail}", errors=[FieldError(pointer, code, detail)])
        self.line = line


class FileStart:
    """Takes a byte order mark off a stream, and refuses files that are no text in UTF-8."""

    def __init__(self) -> None:
        self.held = b""
        self.passed = False

    def feed(self, piece: bytes, *, final: bool = False) -> bytes:
        """The bytes that may be read. Raises UnreadableFile."""
        if self.passed:
            return piece
        self.held += piece
        if len(self.held) < SIGNATURE_BYTES and not final:
            return b""
        self.passed = True
        for signature, (kind, remedy) in SIGNATURES.items():
            if self.held.startswith(signature):
                raise UnreadableFile(1, f"the file is {kind}: {remedy}.", code="wrong_format")
        if b"\0" in self.held[:SIGNATURE_BYTES]:
            raise UnreadableFile(1, f"the file is no text, or text in UTF-16: {SAVE_AS_UTF8}.", code="wrong_format")
        start, self.held = self.held.removeprefix(BOM), b""
        return start


class LineSplitter:
    """Splits a stream into lines that end in LF, CR or CRLF, and keep their ends.

    Of a line longer than MAX_LINE_BYTES only the start is kept, which is longer than MAX_LINE_BYTES too.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        # Whether the line so far ends in CR: an LF may follow.
        self.ends_in_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece."""
        if not piece:
            return []
        ended = [self.take()] if self.ends_in_cr and not piece.startswith(b"\n") else []
        lines = piece.splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        if lines:
            lines[0] = self.take() + lines[0]
        if rest:
            self.hold(rest)
        return ended + lines

    def end(self) -> list[bytes]:
        """The last line, if it has no end."""
        return [self.take()] if self.parts else []

    def hold(self, part: bytes) -> None:
        self.ends_in_cr = part.endswith(b"\r")
        if self.size <= MAX_LINE_BYTES:
            self.parts.append(part)
            self.size += len(part)

    def take(self) -> bytes:
        line = b"".join(self.parts)
        self.parts.clear()
        self.size, self.ends_in_cr = 0, False
        return line
