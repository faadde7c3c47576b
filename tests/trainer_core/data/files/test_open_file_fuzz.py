"""Good files with random damage: each is read, or refused with its name and place; the reader neither breaks nor hangs.

500 files in the normal tests; `FUZZ=10000` in the environment for more, `FUZZ_SEED` for others.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import time
from pathlib import Path

import pyarrow
from pyarrow import parquet

from trainer_core.data import ReadRequest, SandboxReader
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.read_events import UnusableRow
from trainer_core.errors import DataError

COUNT = int(os.environ.get("FUZZ", "500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
PAIRS = [
    {"prompt": f"Was ist {n}?\nSag es „kurz“.", "chosen": f'"{n}", ok', "rejected": "\U0001f642 {}[]\\"}
    for n in range(6)
]
CHATS = [
    {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "ja\t\u2028"}]}
    for n in range(6)
]
NASTY = (
    b'\0 \xff \xfe\xff " \\ [ { }}}}}}} \r , \xef\xbb\xbf \\ud800 1e999 NaN \xed\xa0\x80 \x1f\x8b\x08 PAR1 "" null \xc3'
)
SPLICES = (*NASTY.split(b" "), b"\n", b"[" * 70, b"-" * 300)


def seeds() -> dict[str, bytes]:
    """Good files of every format."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS)
    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(CHATS), table)
    cells = ['"' + text.replace('"', '""') + '"' for row in PAIRS for text in row.values()]
    rows = "\r\n".join(",".join(cells[at : at + 3]) for at in range(0, len(cells), 3))
    return {
        "pairs.jsonl": lines.encode(),
        "wide.jsonl": lines.encode("utf-16"),
        "chats.json": json.dumps(CHATS, indent=1).encode(),
        "wrapped.json": json.dumps({"data": PAIRS}).encode(),
        "pairs.csv": f"prompt,chosen,rejected\r\n{rows}\r\n".encode(),
        "chats.parquet": table.getvalue(),
        "pairs.jsonl.gz": gzip.compress(lines.encode()),
    }


def damaged(content: bytes, chance: random.Random) -> bytes:
    """One to four random changes: bits flipped, pieces cut out, doubled, moved, or replaced by something nasty."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((1, 1, 2, 8, 60, len(content))))
        piece = content[start:end]
        match chance.randrange(5):
            case 0 if piece:
                piece = bytes([piece[0] ^ 1 << chance.randrange(8)]) + piece[1:]
            case 1:
                piece = b""
            case 2:
                piece = piece * chance.randint(2, 5)
            case 3:
                piece = chance.choice(SPLICES) + piece
            case _:
                piece = chance.choice(SPLICES)
        content = content[:start] + piece + content[end:]
    return content


def outcome(reader: SandboxReader, path: Path) -> str:
    """Read or refused; any other exception is a bug and fails the test."""
    try:
        for news in reader.ask(ReadRequest(path)):
            if isinstance(news, UnreadableRow | UnusableRow):
                assert news.file == path.name and news.row >= 1 and str(news).startswith(f"{path.name}, "), news
                assert news.line or "parquet" in path.name or "wrapped" in path.name, news
    except DataError as error:
        assert path.name in str(error), error
        assert error.text.code != "reader.ended", error
        return "refused"
    return "read"


def test_damaged_files_are_read_or_refused_with_their_place(tmp_path: Path) -> None:
    chance, outcomes, slowest = random.Random(SEED), list[str](), 0.0
    with SandboxReader() as reader:
        for name, content in list(seeds().items()) * -(-COUNT // 7):
            path = tmp_path / name
            path.write_bytes(damaged(content, chance))
            start = time.monotonic()
            outcomes.append(outcome(reader, path))
            slowest = max(slowest, time.monotonic() - start)
    assert len(outcomes) >= COUNT
    assert min(outcomes.count("read"), outcomes.count("refused")) > 0.15 * COUNT
    assert slowest < 20
