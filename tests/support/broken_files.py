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

from trainer_core.texts import Text


@dataclass(frozen=True)
class Broken:
    """One path, a text that must be among what is said about it, with at least its parameters, and the line to be named."""

    name: str
    make: bytes | Callable[[Path], object]
    says: Text
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


def arrow_stream(path: Path) -> None:
    """As the datasets library stores its rows."""
    table = pyarrow.table({"prompt": ["a"], "completion": ["b"]})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as rows:
        rows.write_table(table)


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
    Broken("cut.jsonl", LINES + b'{"prompt": "What is 4 pl', Text("json.cut_off"), 4),
    Broken("quote.jsonl", fourth(b'{"prompt": "What, "chosen": "b", "rejected": "c"}'), Text("json.open_object"), 4),
    Broken("single-quotes.jsonl", fourth(b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}"), Text("json.bare_key"), 4),
    Broken(
        "trailing-comma.jsonl",
        fourth(b'{"prompt": "a", "chosen": "b", "rejected": "c",}'),
        Text("json.trailing_comma"),
        4,
    ),
    Broken("no-colon.jsonl", fourth(b'{"prompt" "a"}'), Text("json.no_colon"), 4),
    Broken("no-comma.jsonl", fourth(b'{"prompt": "a" "chosen": "b"}'), Text("json.open_object"), 4),
    Broken("nan.jsonl", fourth(b'{"prompt": "a", "chosen": NaN, "rejected": "c"}'), Text("json.unknown_value"), 4),
    Broken("none.jsonl", fourth(b'{"prompt": None, "chosen": "b", "rejected": "c"}'), Text("json.unknown_value"), 4),
    Broken(
        "comment.jsonl", fourth(b'// {"prompt": "a", "chosen": "b", "rejected": "c"}'), Text("json.unknown_value"), 4
    ),
    Broken(
        "nul.jsonl", fourth(b'{"prompt": "a\0b", "chosen": "b", "rejected": "c"}'), Text("json.control_character"), 4
    ),
    Broken(
        "tab.jsonl", fourth(b'{"prompt": "a\tb", "chosen": "b", "rejected": "c"}'), Text("json.control_character"), 4
    ),
    Broken("newline.jsonl", fourth(b'{"prompt": "a\nb", "chosen": "b", "rejected": "c"}'), Text("json.cut_off"), 4),
    Broken(
        "high-surrogate.jsonl",
        fourth(b'{"prompt": "\\ud83d", "chosen": "b", "rejected": "c"}'),
        Text("json.half_surrogate"),
        4,
    ),
    Broken(
        "low-surrogate.jsonl",
        fourth(b'{"prompt": "\\ude00", "chosen": "b", "rejected": "c"}'),
        Text("json.half_surrogate"),
        4,
    ),
    Broken(
        "escape.jsonl", fourth(b'{"prompt": "C:\\x", "chosen": "b", "rejected": "c"}'), Text("json.unknown_escape"), 4
    ),
    Broken(
        "double-key.jsonl",
        fourth(b'{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}'),
        Text("json.repeated_key", key="chosen"),
        4,
    ),
    Broken("deep-list.jsonl", fourth(b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}"), Text("json.too_deep"), 4),
    Broken("deep-object.jsonl", fourth(b'{"a":' * DEEP + b"1" + b"}" * DEEP), Text("json.too_deep"), 4),
    Broken("deep-65.jsonl", fourth(b'{"a":' * 65 + b"1" + b"}" * 65), Text("json.deeper", levels=64), 4),
    Broken("open-brackets.jsonl", fourth(b"[" * DEEP), Text("json.too_deep"), 4),
    Broken("row-list.jsonl", fourth(b'["a", "b", "c"]'), Text("json.list"), 4),
    Broken("row-text.jsonl", fourth(b'"just a text"'), Text("json.string"), 4),
    Broken("row-number.jsonl", fourth(b"42"), Text("json.number"), 4),
    Broken("row-null.jsonl", fourth(b"null"), Text("json.null"), 4),
    Broken("two-rows.jsonl", fourth(orjson.dumps(GOOD[0]) * 2), Text("json.after_row"), 4),
    Broken(
        "latin-among-utf8.jsonl",
        long_file(b"caf\xe9 now", "gr\u00fc\u00df dich \u20ac"),
        Text("json.not_utf8", byte=233),
        501,
    ),
    Broken(
        "latin-in-ascii.jsonl",
        long_file(b"caf\xe9 \x80 now", "plain"),
        Text("encoding.guessed", line=501, name="cp1252"),
        501,
    ),
    Broken(
        "overlong.jsonl",
        fourth(b'{"prompt": "\xc0\xaf", "chosen": "b\xe2\x82\xac", "rejected": "c"}'),
        Text("encoding.guessed", line=4, name="cp1252"),
        4,
    ),
    Broken("200-mb-line.jsonl", one_line_of_200_mb, Text("rows.too_long", limit=8), 4),
    Broken(
        "utf16-odd.jsonl",
        LINES.decode().encode("utf-16") + b"\x41",
        Text("encoding.not_text", line=4, encoding="utf-16-le"),
        4,
    ),
    Broken(
        "utf16-surrogate.jsonl",
        b"\xff\xfe" + LINES.decode().encode("utf-16-le") + b"\x00\xd8\x41\x00",
        Text("encoding.not_text", line=4, encoding="utf-16-le"),
        4,
    ),
    Broken(
        "utf32-cut.jsonl",
        LINES.decode().encode("utf-32")[:-2],
        Text("encoding.not_text", line=3, encoding="utf-32-le"),
        3,
    ),
    Broken("bom-only.jsonl", b"\xef\xbb\xbf", Text("files.blank")),
    Broken("empty.jsonl", b"", Text("files.empty")),
    Broken("blank.jsonl", b" \n\t\n\n", Text("files.blank")),
    Broken("zeros.jsonl", b"\0" * 5000, Text("files.blank")),
    Broken("page.jsonl", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n", Text("json.unknown_value"), 1),
    Broken("really-csv.jsonl", TABLE, Text("json.unknown_value"), 1),
    Broken("cut-list.json", LIST, Text("json.unclosed_list"), 4),
    Broken("cut-row.json", LIST + b',\n{"prompt": "a", "cho', Text("json.unclosed_row"), 5),
    Broken("cut-text.json", LIST + b',\n{"prompt": "a", "chosen": "b', Text("json.unclosed_row"), 5),
    Broken("bad-row.json", LIST + b',\n{"prompt": a}]', Text("json.unknown_value"), 5),
    Broken("after-list.json", LIST + b"]\n]", Text("json.after_list"), 5),
    Broken("numbers.json", b"[1, 2, 3]", Text("json.no_row"), 1),
    Broken("texts.json", b'["a", "b"]', Text("json.no_row"), 1),
    Broken("deep.json", LIST + b",\n" + b"[" * DEEP + b"]" * DEEP + b"]", Text("json.deeper", levels=64), 5),
    Broken("empty-list.json", b"[]", Text("files.no_rows")),
    Broken("empty-object.json", b"{}", Text("schema.no_columns")),
    Broken(
        "two-lists.json",
        b'{"train": [{"a": 1}], "test": [{"a": 2}]}',
        Text("schema.columns", count=2, names="train, test"),
    ),
    Broken("wrong-columns.json", b'[{"foo": "a", "bar": "b"}]', Text("schema.columns", count=2, names="foo, bar")),
    Broken("kto.json", b'[{"prompt": "a?", "completion": "b", "label": true}]', Text("schema.kto")),
    Broken("ragged-short.csv", TABLE + b"only,two\n", Text("csv.field_count", fields=2, columns=3), 5),
    Broken("ragged-long.csv", TABLE + b"a,b,c,d\n", Text("csv.field_count", fields=4, columns=3), 5),
    Broken("open-quote.csv", TABLE + b'"a,b,c\nd,e,f\n', Text("csv.open_quote"), 5),
    Broken("bad-quote.csv", TABLE + b'"a"b,c,d\n', Text("csv.after_quote"), 5),
    Broken("nul.csv", TABLE + b"a\0b,c,d\n", Text("csv.zero_byte", number=1, column="prompt"), 5),
    Broken(
        "latin.csv", TABLE + "süß,b,c\n".encode() + b"caf\xe9,b,c\n", Text("csv.not_utf8", number=1, column="prompt"), 6
    ),
    Broken("double-header.csv", b"prompt,chosen,chosen\na,b,c\n", Text("csv.repeated_column", column="chosen"), 1),
    Broken("header-only.csv", b"prompt,chosen,rejected\n", Text("files.no_rows")),
    Broken("long-field.csv", TABLE + b"a,b," + b"x" * (9 * MB) + b"\n", Text("csv.long_line", line=5, limit=8), 5),
    Broken("prose.txt", b"Dear reader,\nthis is a letter and no data set.\n", Text("files.prose")),
    Broken("story.txt", b"It was a dark night.\nThe rain fell.\n\nNobody came.\n", Text("files.prose")),
    Broken("notes.txt.gz", gzip.compress(b"one, two, three\nfour, five, six\n"), Text("files.prose")),
    Broken("one-column.csv", b"words\na\nb\n", Text("schema.columns", count=1, names="words")),
    Broken("table.txt", b"prompt\tchosen\na\tb\n", Text("schema.columns", count=2, names="prompt, chosen")),
)
PACKED = (
    Broken("cut.jsonl.gz", gzip.compress(LINES * 50)[:-20], Text("files.damaged_gzip")),
    Broken(
        "flipped.jsonl.gz", gzip.compress(LINES)[:-6] + b"\0\0" + gzip.compress(LINES)[-4:], Text("files.damaged_gzip")
    ),
    Broken("head-only.jsonl.gz", b"\x1f\x8b", Text("files.damaged_gzip")),
    Broken("empty.jsonl.gz", gzip.compress(b""), Text("files.blank")),
    Broken("twice.jsonl.gz", gzip.compress(gzip.compress(LINES)), Text("binary.gzip")),
    Broken("bomb.jsonl.gz", gzip_bomb, Text("packed.too_large")),
    Broken("bad-line.jsonl.gz", gzip.compress(fourth(b"{")), Text("json.cut_off"), 4),
    Broken("cut.parquet", GOOD_PARQUET[:-9], Text("parquet.damaged")),
    Broken("magic.parquet", b"PAR1", Text("parquet.damaged")),
    Broken("noise.parquet", b"PAR1" + bytes(range(256)) * 4 + b"\x10\0\0\0PAR1", Text("parquet.damaged")),
    Broken("flipped.parquet", GOOD_PARQUET[:40] + b"\xff" * 30 + GOOD_PARQUET[70:], Text("parquet.damaged")),
    Broken("bomb.parquet", parquet_bomb, Text("packed.row_too_large")),
    Broken(
        "wide-cell.parquet",
        lambda path: path.write_bytes(table_of({"text": ["x" * (300 * MB)]})),
        Text("packed.row_too_large", row=1, limit=256),
    ),
    Broken("empty-table.parquet", table_of({"text": []}), Text("files.no_rows")),
    Broken("picture.json", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, Text("binary.image")),
    Broken("stream.arrow", arrow_stream, Text("binary.arrow")),
    Broken("array.jsonl", b"\x93NUMPY\x01\0" + b"\0" * 50, Text("binary.numpy")),
    Broken("archive.csv", b"PK\x03\x04" + b"\0" * 50, Text("binary.zip")),
    Broken("pickle.json", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", Text("binary.pickle")),
    Broken("paper.jsonl", b"%PDF-1.7\n", Text("binary.pdf")),
)
PLACES = (
    Broken("missing.jsonl", lambda path: None, Text("files.missing")),
    Broken("empty-folder", lambda path: path.mkdir(), Text("files.none")),
    Broken(
        "wrong-folder",
        folder_with("readme.md", b"# Data"),
        Text("files.others_only", notes=str(Text("files.other_name", file="readme.md"))),
    ),
    Broken("broken-inside", folder_with("broken-inside.jsonl", fourth(b"{")), Text("json.cut_off"), 4),
    Broken("link-out", link_out, Text("files.others_only", notes=str(Text("files.outside", file="link.jsonl")))),
    Broken("mixed", mixed, Text("files.both_kinds", pairs="a.jsonl", chats="b.jsonl")),
    Broken("dangling.jsonl", lambda path: path.symlink_to("nowhere.jsonl"), Text("files.missing")),
    Broken("circle.jsonl", lambda path: path.symlink_to("circle.jsonl"), Text("files.unreadable")),
    Broken("device.jsonl", lambda path: path.symlink_to("/dev/zero"), Text("files.no_file")),
    Broken("pipe.jsonl", lambda path: os.mkfifo(path), Text("files.no_file")),
    Broken("file.jsonl/below.jsonl", lambda path: path.parent.write_bytes(LINES), Text("files.unreadable")),
    Broken("locked.jsonl", locked, Text("files.no_permission")),
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
