"""Converts a file's bytes to UTF-8: byte order marks, UTF-16, and legacy encodings."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

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
MIN_GUESS_BYTES = 32
"""With fewer non-ASCII bytes, statistics guess worse than the most common encoding."""


@dataclass(frozen=True)
class TextEncoding:
    """A codec name and, unless it is plain UTF-8, how it was detected."""

    name: str
    note: Text = NO_TEXT


UTF8 = TextEncoding("utf-8")


def detect_encoding(from_start: Callable[[], BinaryIO]) -> TextEncoding:
    """The encoding of a text file. Reads it once from end to end if it has no byte order mark.

    A file in UTF-8 except for a few lines counts as UTF-8: the reader reports its bad lines one by one.
    """
    head = from_start().read(SAMPLE_BYTES)
    for mark, name in BOMS:
        if head.startswith(mark):
            return TextEncoding(name, NO_TEXT if name == "utf-8-sig" else Text("encoding.by_mark", name=name.upper()))
    if wide := detect_utf16(head):
        return TextEncoding(wide, Text("encoding.by_zeros", name=wide.upper()))
    return UTF8 if is_utf8(from_start()) else detect_legacy(from_start())


def detect_utf16(head: bytes) -> str | None:
    """UTF-16 text in Latin script has a zero in most of its odd (little endian) or even (big endian) places."""
    half = max(1, len(head) // 2)
    if head[1::2].count(0) > 0.4 * half and head[::2].count(0) < 0.1 * half:
        return "utf-16-le"
    if head[::2].count(0) > 0.4 * half and head[1::2].count(0) < 0.1 * half:
        return "utf-16-be"
    return None


def is_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(SAMPLE_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def detect_legacy(file: BinaryIO) -> TextEncoding:
    """UTF-8 with bad lines, or a legacy encoding, decided by the lines that are not plain ASCII."""
    good, bad, first = 0, bytearray(), 0
    for number, line in enumerate(iter(lambda: file.readline(CHUNK_BYTES), b""), start=1):
        if line.isascii():
            continue
        try:
            line.decode()
            good += 1
        except UnicodeDecodeError:
            first = first or number
            bad += line[: SAMPLE_BYTES - len(bad)]
    if good:
        return UTF8
    name = guess_legacy(bytes(bad))
    return TextEncoding(name, Text("encoding.guessed", line=first, name=name))


def guess_legacy(sample: bytes) -> str:
    """The likeliest encoding of lines that are not UTF-8; with few non-ASCII bytes Windows-1252, or Latin-1 if that fails."""
    if sum(byte > 127 for byte in sample) >= MIN_GUESS_BYTES:
        from charset_normalizer import from_bytes

        if best := from_bytes(sample).best():
            return best.encoding
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


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
