"""Converts a file's bytes to UTF-8: byte order marks, UTF-16, and legacy encodings."""

from __future__ import annotations

import codecs
import io
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from trainer_core.data.files import legacy_encoding
from trainer_core.errors import DataError
from trainer_core.texts import NO_TEXT, Text

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LEGACY_SAMPLE_BYTES = 1 << 20
"""Bytes of the lines that are not UTF-8, from which their encoding is guessed."""
ROW_SEPARATOR = "  ⏎  "
"""Between the rows that show how an encoding reads a file."""
ESCAPES = (b"\x1b$", b"\x1b(")
"""Beginnings of ISO 2022 sequences, whose bytes are all ASCII (Japanese mail and old Korean text)."""


@dataclass(frozen=True)
class TextEncoding:
    """A codec name and, unless it is plain UTF-8, how it was detected."""

    name: str
    note: Text = NO_TEXT


UTF8 = TextEncoding("utf-8")


def detect_encoding(from_start: Callable[[], BinaryIO], name: str, named: str = "") -> TextEncoding:
    """The encoding of a text file. Reads it once from end to end if it has no byte order mark.

    A file in UTF-8 except for a few lines counts as UTF-8: the reader reports its bad lines one by one.

    Args:
        name: of the file.
        named: the user's encoding for files that are not UTF-8.

    Raises:
        DataError: it is not clear; the error shows how the likeliest encodings read the file.
    """
    head = from_start().read(SAMPLE_BYTES)
    if found := detect_unicode(head):
        return found
    if is_utf8(from_start()) and not any(escape in head for escape in ESCAPES):
        return UTF8
    return detect_legacy(from_start(), name, named)


def detect_unicode(head: bytes) -> TextEncoding | None:
    """The encoding that a byte order mark or zero bytes tell."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return TextEncoding(name, NO_TEXT if name == "utf-8-sig" else Text("encoding.by_mark", name=name.upper()))
    wide = detect_utf16(head) if b"\0" in head else None
    return TextEncoding(wide, Text("encoding.by_zeros", name=wide.upper())) if wide else None


def detect_utf16(head: bytes) -> str | None:
    """The byte order in which the bytes are text: line ends, blanks and marks of JSON or CSV are ASCII in every language."""
    scores = {codec: count_ascii_text(head, codec) for codec in ("utf-16-le", "utf-16-be")}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > 0 else None


def count_ascii_text(head: bytes, codec: str) -> int:
    """ASCII characters of the text, less those that mean nothing; -1 if it is none."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeDecodeError:
        return -1
    plain = sum(" " <= letter <= "~" or letter in "\t\r\n" for letter in text)
    return plain - 10 * sum(
        unicodedata.category(letter) in ("Cc", "Cn", "Co") and letter not in "\t\r\n" for letter in text
    )


def is_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(SAMPLE_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def detect_legacy(file: BinaryIO, name: str, named: str) -> TextEncoding:
    """UTF-8 with bad lines, or a legacy encoding, decided by the lines that are not plain ASCII."""
    good, bad, sample, first = 0, 0, bytearray(), 0
    for number, line in enumerate(iter(lambda: file.readline(CHUNK_BYTES), b""), start=1):
        escaped = any(escape in line for escape in ESCAPES)
        if line.isascii() and not escaped:
            continue
        if not escaped and is_utf8(io.BytesIO(line)):
            good += 1
            continue
        bad, first = bad + 1, first or number
        if len(sample) < LEGACY_SAMPLE_BYTES:
            sample += line
    if good >= bad:
        return UTF8
    if named:
        return TextEncoding(named, Text("encoding.named", name=named))
    try:
        found = legacy_encoding.guess_encoding(bytes(sample))
    except legacy_encoding.UnsureEncoding as unsure:
        raise unsure_error(name, first, unsure) from unsure
    return TextEncoding(found, Text("encoding.guessed", line=first, name=found))


def unsure_error(file: str, line: int, unsure: legacy_encoding.UnsureEncoding) -> DataError:
    if not unsure.candidates:
        return DataError("encoding.unknown", file=file, line=line)
    choices = "\n".join(
        f"{name}: {ROW_SEPARATOR.join(rows)}" for name, rows in legacy_encoding.describe_choices(unsure.candidates)
    )
    return DataError("encoding.unsure", file=file, line=line, choices=choices, example=unsure.candidates[0].name)


def open_as_utf8(file: BinaryIO, encoding: TextEncoding, name: str) -> BinaryIO:
    """The file's text as a stream of UTF-8 bytes, without a byte order mark."""
    if encoding.name == "utf-8":
        return file
    if encoding.name == "utf-8-sig":
        file.read(len(codecs.BOM_UTF8))
        return file
    return io.BufferedReader(Utf8Stream(file, encoding.name, name), CHUNK_BYTES)


class Utf8Stream(io.RawIOBase):
    """Converts bytes of one encoding to bytes of UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str, name: str) -> None:
        self.file, self.name, self.lines, self.rest = file, name, 1, b""
        self.decoder = codecs.getincrementaldecoder(encoding)()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self.rest:
            chunk = self.file.read(SAMPLE_BYTES)
            self.rest = self.decode_chunk(chunk)
            self.lines += self.rest.count(b"\n")
            if not chunk:
                break
        taken = self.rest[: len(buffer)]
        self.rest = self.rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def decode_chunk(self, chunk: bytes) -> bytes:
        """Raises DataError with the approximate line where the bytes stop being text."""
        try:
            return self.decoder.decode(chunk, final=not chunk).encode()
        except UnicodeDecodeError as error:
            line = self.lines + chunk[: error.start].count(b"\n")
            about = {"file": self.name, "line": line, "encoding": error.encoding, "reason": error.reason}
            raise DataError("encoding.not_text", **about) from error
