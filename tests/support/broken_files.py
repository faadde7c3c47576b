"""Files that are broken in every way we know, each with what must be said about it.

`python -m tests.support.broken_files FOLDER` writes them all.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow
from pyarrow import parquet


@dataclass(frozen=True)
class Broken:
    """One path, words that must be in what is said about it, and the line that must be named."""

    name: str
    make: bytes | Callable[[Path], object]
    says: str
    line: int | None = None


GOOD = [
    {"prompt": f"What is {n} plus {n}?", "chosen": f"It is {n + n}.", "rejected": f"Who knows {n}?"}
    for n in range(1, 4)
]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in GOOD)
LIST = b"[\n" + b",\n".join(map(orjson.dumps, GOOD))
TABLE = b"prompt,chosen,rejected\n" + b"".join(b",".join(v.encode() for v in row.values()) + b"\n" for row in GOOD)
MB = 1 << 20


def fourth(text: bytes) -> bytes:
    """Three good lines, then this one, then a good one."""
    return LINES + text + b"\n" + orjson.dumps(GOOD[0]) + b"\n"


def long_file(bad: bytes, other: str) -> bytes:
    """1,000 rows in which line 501 has a byte that is no UTF-8."""
    rows = [f'{{"prompt": "Say {n}", "chosen": "{other} {n}", "rejected": "no"}}\n'.encode() for n in range(1000)]
    rows[500] = b'{"prompt": "Say it", "chosen": "' + bad + b'", "rejected": "no"}\n'
    return b"".join(rows)


def table_of(columns: dict[str, list[object]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


GOOD_PARQUET = table_of({key: [row[key] for row in GOOD] for key in GOOD[0]})


def parquet_bomb(path: Path) -> None:
    """A few kilobytes that decode to 20 GB: one long text, named two million times."""
    words = pyarrow.array(["x" * 10_000]).dictionary_encode().dictionary
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2_000_000, pyarrow.int32()), words)
    schema = pyarrow.schema([("text", pyarrow.string())])
    table = pyarrow.table({"text": column})
    parquet.write_table(table.replace_schema_metadata(schema.metadata), path, store_schema=False)


def gzip_bomb(path: Path) -> None:
    """300 MB of rows in less than one."""
    path.write_bytes(gzip.compress((orjson.dumps({"text": "a" * 1000}) + b"\n") * 1000) * 300)


def one_line_of_200_mb(path: Path) -> None:
    with path.open("wb") as file:
        file.write(LINES + b'{"prompt": "')
        for _ in range(200):
            file.write(b"x" * MB)
        file.write(b'", "chosen": "a", "rejected": "b"}\n')


def link_out(path: Path) -> None:
    path.mkdir()
    target = path.parent / "elsewhere.jsonl.hidden"
    target.write_bytes(LINES)
    (path / "link.jsonl").symlink_to(target)


def locked(path: Path) -> None:
    path.write_bytes(LINES)
    path.chmod(0)


def mixed(path: Path) -> None:
    path.mkdir()
    (path / "a.jsonl").write_bytes(LINES)
    (path / "b.jsonl").write_bytes(b'{"prompt": "Hello?", "completion": "Hello."}\n')


def folder_with(name: str, content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / name).write_bytes(content)

    return make


DEEP = 100_000
TEXT = (
    Broken("cut.jsonl", LINES + b'{"prompt": "What is 4 pl', "cut off in the middle", 4),
    Broken("quote.jsonl", fourth(b'{"prompt": "What, "chosen": "b", "rejected": "c"}'), "not valid JSON", 4),
    Broken("single-quotes.jsonl", fourth(b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}"), "double quotes", 4),
    Broken(
        "trailing-comma.jsonl",
        fourth(b'{"prompt": "a", "chosen": "b", "rejected": "c",}'),
        "comma before the closing",
        4,
    ),
    Broken("no-colon.jsonl", fourth(b'{"prompt" "a"}'), "no colon", 4),
    Broken("no-comma.jsonl", fourth(b'{"prompt": "a" "chosen": "b"}'), "no comma", 4),
    Broken("nan.jsonl", fourth(b'{"prompt": "a", "chosen": NaN, "rejected": "c"}'), "where a value should be", 4),
    Broken("none.jsonl", fourth(b'{"prompt": None, "chosen": "b", "rejected": "c"}'), "where a value should be", 4),
    Broken(
        "comment.jsonl", fourth(b'// {"prompt": "a", "chosen": "b", "rejected": "c"}'), "where a value should be", 4
    ),
    Broken("nul.jsonl", fourth(b'{"prompt": "a\0b", "chosen": "b", "rejected": "c"}'), "control character", 4),
    Broken("tab.jsonl", fourth(b'{"prompt": "a\tb", "chosen": "b", "rejected": "c"}'), "control character", 4),
    Broken("newline.jsonl", fourth(b'{"prompt": "a\nb", "chosen": "b", "rejected": "c"}'), "cut off", 4),
    Broken("high-surrogate.jsonl", fourth(b'{"prompt": "\\ud83d", "chosen": "b", "rejected": "c"}'), "surrogate", 4),
    Broken("low-surrogate.jsonl", fourth(b'{"prompt": "\\ude00", "chosen": "b", "rejected": "c"}'), "surrogate", 4),
    Broken("escape.jsonl", fourth(b'{"prompt": "C:\\x", "chosen": "b", "rejected": "c"}'), "escape", 4),
    Broken(
        "double-key.jsonl",
        fourth(b'{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}'),
        "'chosen' appears twice",
        4,
    ),
    Broken("deep-list.jsonl", fourth(b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}"), "nested", 4),
    Broken("deep-object.jsonl", fourth(b'{"a":' * DEEP + b"1" + b"}" * DEEP), "nested", 4),
    Broken("deep-65.jsonl", fourth(b'{"a":' * 65 + b"1" + b"}" * 65), "64 levels", 4),
    Broken("open-brackets.jsonl", fourth(b"[" * DEEP), "nested", 4),
    Broken("row-list.jsonl", fourth(b'["a", "b", "c"]'), "a list", 4),
    Broken("row-text.jsonl", fourth(b'"just a text"'), "a text", 4),
    Broken("row-number.jsonl", fourth(b"42"), "a number", 4),
    Broken("row-null.jsonl", fourth(b"null"), "null", 4),
    Broken("two-rows.jsonl", fourth(orjson.dumps(GOOD[0]) * 2), "after the end of the row", 4),
    Broken("latin-among-utf8.jsonl", long_file(b"caf\xe9 now", "gr\u00fc\u00df dich \u20ac"), "0xe9 is not UTF-8", 501),
    Broken("latin-in-ascii.jsonl", long_file(b"caf\xe9 \x80 now", "plain"), "cp1252", 501),
    Broken(
        "overlong.jsonl", fourth(b'{"prompt": "\xc0\xaf", "chosen": "b\xe2\x82\xac", "rejected": "c"}'), "cp1252", 4
    ),
    Broken("200-mb-line.jsonl", one_line_of_200_mb, "longer than 8 MB", 4),
    Broken("utf16-odd.jsonl", LINES.decode().encode("utf-16") + b"\x41", "not utf-16", 4),
    Broken(
        "utf16-surrogate.jsonl", b"\xff\xfe" + LINES.decode().encode("utf-16-le") + b"\x00\xd8\x41\x00", "not utf-16", 4
    ),
    Broken("utf32-cut.jsonl", LINES.decode().encode("utf-32")[:-2], "not utf-32", 3),
    Broken("bom-only.jsonl", b"\xef\xbb\xbf", "nothing but white space"),
    Broken("empty.jsonl", b"", "the file is empty"),
    Broken("blank.jsonl", b" \n\t\n\n", "nothing but white space"),
    Broken("zeros.jsonl", b"\0" * 5000, "nothing but white space"),
    Broken("page.jsonl", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n", "not valid JSON", 1),
    Broken("really-csv.jsonl", TABLE, "not valid JSON", 1),
    Broken("cut-list.json", LIST, "cut off", 4),
    Broken("cut-row.json", LIST + b',\n{"prompt": "a", "cho', "cut off", 5),
    Broken("cut-text.json", LIST + b',\n{"prompt": "a", "chosen": "b', "cut off", 5),
    Broken("bad-row.json", LIST + b',\n{"prompt": a}]', "not valid JSON", 5),
    Broken("after-list.json", LIST + b"]\n]", "after the end of the list", 5),
    Broken("numbers.json", b"[1, 2, 3]", "not a row", 1),
    Broken("texts.json", b'["a", "b"]', "not a row", 1),
    Broken("deep.json", LIST + b",\n" + b"[" * DEEP + b"]" * DEEP + b"]", "nested", 5),
    Broken("empty-list.json", b"[]", "no rows"),
    Broken("empty-object.json", b"{}", "no columns"),
    Broken("two-lists.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', "train, test"),
    Broken("wrong-columns.json", b'[{"foo": "a", "bar": "b"}]', "foo, bar"),
    Broken("kto.json", b'[{"prompt": "a?", "completion": "b", "label": true}]', "KTO"),
    Broken("ragged-short.csv", TABLE + b"only,two\n", "2 fields", 5),
    Broken("ragged-long.csv", TABLE + b"a,b,c,d\n", "4 fields", 5),
    Broken("open-quote.csv", TABLE + b'"a,b,c\nd,e,f\n', "not valid CSV", 5),
    Broken("bad-quote.csv", TABLE + b'"a"b,c,d\n', "not valid CSV", 5),
    Broken("nul.csv", TABLE + b"a\0b,c,d\n", "zero byte", 5),
    Broken("latin.csv", TABLE + "süß,b,c\n".encode() + b"caf\xe9,b,c\n", "not UTF-8", 6),
    Broken("double-header.csv", b"prompt,chosen,chosen\na,b,c\n", "named twice", 1),
    Broken("header-only.csv", b"prompt,chosen,rejected\n", "no rows"),
    Broken("long-field.csv", TABLE + b"a,b," + b"x" * (9 * MB) + b"\n", "longer than 8 MB", 5),
    Broken("prose.txt", b"Dear reader,\nthis is a letter and no data set.\n", "1 field, but the first line names 2", 2),
)
PACKED = (
    Broken("cut.jsonl.gz", gzip.compress(LINES * 50)[:-20], "gzip data is damaged"),
    Broken("flipped.jsonl.gz", gzip.compress(LINES)[:-6] + b"\0\0" + gzip.compress(LINES)[-4:], "gzip data is damaged"),
    Broken("head-only.jsonl.gz", b"\x1f\x8b", "gzip data is damaged"),
    Broken("empty.jsonl.gz", gzip.compress(b""), "nothing but white space"),
    Broken("twice.jsonl.gz", gzip.compress(gzip.compress(LINES)), "inside another"),
    Broken("bomb.jsonl.gz", gzip_bomb, "unpacks to more than"),
    Broken("bad-line.jsonl.gz", gzip.compress(fourth(b"{")), "cut off", 4),
    Broken("cut.parquet", GOOD_PARQUET[:-9], "no Parquet file"),
    Broken("magic.parquet", b"PAR1", "no Parquet file"),
    Broken("noise.parquet", b"PAR1" + bytes(range(256)) * 4 + b"\x10\0\0\0PAR1", "no Parquet file"),
    Broken("flipped.parquet", GOOD_PARQUET[:40] + b"\xff" * 30 + GOOD_PARQUET[70:], "no Parquet file"),
    Broken("bomb.parquet", parquet_bomb, "unpacks to more than"),
    Broken(
        "wide-cell.parquet",
        lambda path: path.write_bytes(table_of({"text": ["x" * (300 * MB)]})),
        "unpacks to more than",
    ),
    Broken("empty-table.parquet", table_of({"text": []}), "no rows"),
    Broken("picture.json", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "an image"),
    Broken("archive.csv", b"PK\x03\x04" + b"\0" * 50, "a zip archive"),
    Broken("pickle.json", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", "a Python pickle"),
    Broken("paper.jsonl", b"%PDF-1.7\n", "a PDF"),
)
PLACES = (
    Broken("missing.jsonl", lambda path: None, "no such file"),
    Broken("empty-folder", lambda path: path.mkdir(), "no data file"),
    Broken("wrong-folder", folder_with("readme.md", b"# Data"), "readme.md was not read"),
    Broken("broken-inside", folder_with("broken-inside.jsonl", fourth(b"{")), "cut off", 4),
    Broken("link-out", link_out, "outside the folder"),
    Broken("mixed", mixed, "b.jsonl holds chats"),
    Broken("dangling.jsonl", lambda path: path.symlink_to("nowhere.jsonl"), "no such file"),
    Broken("circle.jsonl", lambda path: path.symlink_to("circle.jsonl"), "cannot be read"),
    Broken("device.jsonl", lambda path: path.symlink_to("/dev/zero"), "a device or a pipe"),
    Broken("pipe.jsonl", lambda path: os.mkfifo(path), "a device or a pipe"),
    Broken("file.jsonl/below.jsonl", lambda path: path.parent.write_bytes(LINES), "cannot be read"),
    Broken("locked.jsonl", locked, "no permission"),
)


ALL = TEXT + PACKED + tuple(one for one in PLACES if one.name != "locked.jsonl" or os.geteuid() != 0)
"""Permissions do not bind root, so `locked` is left out there."""


def write(folder: Path) -> None:
    for one in ALL:
        if isinstance(one.make, bytes):
            (folder / one.name).write_bytes(one.make)
        else:
            one.make(folder / one.name)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
