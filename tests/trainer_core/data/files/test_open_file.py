"""Files as people have them: every encoding, folder and half-right format is read, and said where it matters."""

from __future__ import annotations

import ast
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainer_core.data import ReadRequest, SandboxReader, check_dataset
from trainer_core.data.files import json_stream
from trainer_core.data.files.limits import CHILD_LIMITS, FILE_LIMITS, FileLimits
from trainer_core.data.files.open_file import find_data_files, open_data_file
from trainer_core.data.files.raw_rows import RawRow, UnreadableRow
from trainer_core.data.read_events import FileNote, ReadEvent, ReadProgress, UsableRow
from trainer_core.data.stream import stream_rows
from trainer_core.errors import DataError
from trainer_core.system.child_process import ChildLimits
from trainer_core.texts import Text

TEXT = "Grüße, naïve café – „ok“ €"


def rows_in(path: Path, limits: FileLimits = FILE_LIMITS) -> list[RawRow | UnreadableRow]:
    with open_data_file(path, limits) as file:
        return list(file.rows())


def lines(*texts: str) -> str:
    return "".join(json.dumps({"prompt": text, "completion": "x"}, ensure_ascii=False) + "\n" for text in texts)


@pytest.mark.parametrize("name", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "jsonl.gz"])
def test_encodings(tmp_path: Path, name: str, suffix: str) -> None:
    content = lines(TEXT, TEXT + " 2")
    if suffix == "csv":
        content = f'prompt,completion\r\n"{TEXT}",x\r\n"{TEXT} 2",x\r\n'
    elif suffix == "json":
        content = "[\n" + ",\n".join(content.splitlines()) + "\n]"
    path = tmp_path / f"rows.{suffix}"
    packed = gzip.compress(content.encode(name)) if suffix.endswith("gz") else content.encode(name)
    path.write_bytes(packed)
    news = list(stream_rows(ReadRequest(path)))
    asked = [one.item.messages[0].content for one in news if isinstance(one, UsableRow)]  # type: ignore[union-attr]
    assert asked == [TEXT, TEXT + " 2"]
    assert [one.text for one in news if isinstance(one, FileNote)] == (
        [] if name.startswith("utf-8") else [news[0].text]
    )  # type: ignore[union-attr]


def test_a_longer_text_in_another_script_is_recognised(tmp_path: Path) -> None:
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*[f"{text}{n}" for n in range(20)]).encode("cp1251"))
    news = list(stream_rows(ReadRequest(path)))
    assert news[0] == FileNote(
        Text("encoding.note", file="rows.jsonl", note=Text("encoding.guessed", line=1, name="cp1251"))
    )
    assert isinstance(news[-1], UsableRow) and news[-1].item.messages[0].content == f"{text}19"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "rows.parquet", "rows", "rows.json"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(lines("a", "b"))
    assert [row.values["prompt"] for row in rows_in(path) if isinstance(row, RawRow)] == ["a", "b"]


def test_objects_over_several_lines_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{\n "a": "x"\n}\n{\n "a":\n "y"}\n{"a": 1,\n "a": 2}')
    first, second, third = rows_in(path)
    assert (first, second) == (RawRow(1, 1, {"a": "x"}), RawRow(2, 4, {"a": "y"}))
    place = Text("rows.column", place=Text("rows.line", file="rows.json", line=7), column=1)
    assert isinstance(third, UnreadableRow)
    assert third.text == Text("rows.fault", place=place, reason=Text("json.repeated_key", key="a"))


@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_tables_with_any_delimiter_and_line_breaks_in_cells(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        delimiter.join(("prompt", "completion")).encode()
        + b'\n"a\r\nb"'
        + delimiter.encode()
        + b"x\nc"
        + delimiter.encode()
        + b"y\n"
    )
    assert rows_in(path) == [
        RawRow(1, 2, {"prompt": "a\r\nb", "completion": "x"}),
        RawRow(2, 4, {"prompt": "c", "completion": "y"}),
    ]


def test_messages_in_cells_written_by_pandas(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "id,messages\n1,\"[{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': \"\"It's me\"\"}]\"\n"
    )
    item = [news.item for news in stream_rows(ReadRequest(path)) if isinstance(news, UsableRow)][0]
    assert [message.content for message in item.messages] == ["Hi", "It's me"]  # type: ignore[union-attr]


def test_a_list_larger_than_the_buffer_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [{"a": f'{n} "[{{' + "é\\" * 400} for n in range(3000)]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 3 << 20
    found = rows_in(path)
    assert found == [RawRow(n + 1, 3 * n + 2, row) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": "b\\": c\\\\"}',
        b'{"a" : {"b" : "\\" : "}}',
        b'{"a":[{"b":1},{"b":2}]}',
        b'{"a\\"":"\\u0022","b\\\\":["\\"",{"\\u0022":null}]}',
    ],
)
def test_keys_that_only_look_double_are_fine(text: bytes) -> None:
    assert json_stream.parse_row(text, FileLimits()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"b":2,"a":3}',
        b'{"x":{"a":1,"a" : 2}}',
        b'{"x":[{"\\u0061":1,"a":2}]}',
        b'{"a":1,"a"\t:"\\""}',
        b'{"a":1,"a":"\\u0022\\u0022"}',
    ],
)
def test_double_keys_are_found_at_any_depth(text: bytes) -> None:
    found = json_stream.parse_row(text, FileLimits())
    assert isinstance(found, json_stream.JsonError) and found.reason == Text("json.repeated_key", key="a")


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_text(lines("2"))
    (tmp_path / "a.csv").write_text("prompt,completion\n1,x\n")
    (tmp_path / "sub" / "c.jsonl.gz").write_bytes(gzip.compress(lines("3", "4").encode()))
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / ".hidden.jsonl").write_text("{")
    news: list[ReadEvent] = list(stream_rows(ReadRequest(tmp_path, rows=3)))
    assert [one.item.messages[0].content for one in news if isinstance(one, UsableRow)] == ["1", "2", "3"]  # type: ignore[union-attr]
    assert news[0] == FileNote(Text("files.other_name", file="README.md"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "ok.jsonl").write_text(lines("a"))
    (tmp_path / os.fsdecode(b"b\xff.jsonl")).write_bytes(b"{")
    assert find_data_files(tmp_path).notes == (Text("files.bad_name", file="'b\\udcff.jsonl'"),)


def test_too_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*"abcd"))
    with pytest.raises(DataError) as error:
        rows_in(path, FileLimits(rows=3))
    assert error.value.text == Text("files.too_many_rows", file="rows.jsonl", limit=3)


# --- the child --------------------------------------------------------------------------------------------------------


def test_one_child_answers_several_requests(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*(str(n) for n in range(4500))))
    with SandboxReader() as reader:
        for _ in range(2):
            news = list(reader.ask(ReadRequest(path)))
            assert sum(isinstance(one, UsableRow) for one in news) == 4500
            progress = [one for one in news if isinstance(one, ReadProgress)]
            assert [one.rows for one in progress] == [2000, 4000] * 2, "once for the shape, once for the rows"
            assert progress[-1].of == 2 * path.stat().st_size and [one.bytes for one in progress] == sorted(
                one.bytes for one in progress
            )
        with pytest.raises(DataError) as error:
            list(reader.ask(ReadRequest(tmp_path / "missing")))
        assert error.value.text == Text("files.missing", path=str(tmp_path / "missing"))
        assert sum(isinstance(one, UsableRow) for one in reader.ask(ReadRequest(path, rows=7))) == 7
    assert reader.child.process.returncode is not None


def script(code: str) -> tuple[str, ...]:
    """A child that reads its request and then behaves as told."""
    return (sys.executable, "-c", f"import sys, os, signal, time; sys.stdin.readline(); {code}")


@pytest.mark.parametrize(
    ("code", "limits", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", CHILD_LIMITS, -int(signal.SIGSEGV)),
        (
            "a = b'x' * (600 << 20); time.sleep(60)",
            replace(CHILD_LIMITS, memory_bytes=512 << 20, watch_seconds=0.02),
            Text("child.memory", limit="0.5 GB"),
        ),
        (  # as on Windows, where .venv's python.exe only starts the Python that reads
            "import subprocess; grow = 'b = bytes([1]) * (600 << 20); import time; time.sleep(4)'; "
            "subprocess.call([sys.executable, '-S', '-c', grow], stdout=subprocess.DEVNULL)",
            replace(CHILD_LIMITS, memory_bytes=512 << 20, watch_seconds=0.02),
            Text("child.memory", limit="0.5 GB"),
        ),
        (
            "exec('while True: pass')",
            replace(CHILD_LIMITS, cpu_seconds=0.3, watch_seconds=0.02),
            Text("child.busy", seconds=pytest.approx(0.3, abs=0.01)),
        ),
    ],
    ids=["crash", "memory", "memory below a launcher", "time"],
)
def test_a_child_that_crashes_grows_or_hangs_becomes_a_sentence(
    tmp_path: Path, code: str, limits: ChildLimits, says: Text | int
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines("a"))
    start = time.monotonic()
    with (
        pytest.raises(DataError) as error,
        SandboxReader(limits, script(code)) as reader,
    ):
        list(reader.ask(ReadRequest(path)))
    about = ("reader.limit", {"limit": says}) if isinstance(says, Text) else ("reader.ended", {"exit": says})
    assert error.value.text == Text(about[0], path=path, **about[1])
    assert time.monotonic() - start < 20


def test_a_bug_in_the_child_is_a_bug_here(tmp_path: Path) -> None:
    code = r"""print('["Crashed", {"traceback": "ZeroDivisionError: here"}]', flush=True)"""
    with (
        pytest.raises(RuntimeError, match="ZeroDivisionError: here"),
        SandboxReader(CHILD_LIMITS, script(code)) as reader,
    ):
        list(reader.ask(ReadRequest(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux only")
def test_the_child_cannot_take_more_than_its_memory() -> None:
    code = "from trainer_core.data.sandbox import child; child.limit_memory(child.CHILD_LIMITS.memory_bytes); b'x' * (5 << 30)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_reading_needs_no_torch_and_leaves_the_app_without_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines("a"))
    code = (
        f"import sys; from pathlib import Path; from trainer_core import data; data.check_dataset(Path({str(path)!r}));"
    )
    code += (
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow', 'gradio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_child_starts_without_what_takes_long_to_import() -> None:
    code = "import sys; from trainer_core.data.sandbox import child; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert "trainer_core.data.sandbox.child" in loaded
    assert not loaded & {"pydantic", "psutil", "trainer_core.config.recipe"}, "0.3 s of every check"


def test_a_check_of_a_file_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        check_dataset(tmp_path)
    assert (error.value.text.code, error.value.text.params["folder"]) == ("files.none", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('prompt, completion\n"a, b", "c"\n', {"prompt": "a, b", "completion": "c"}),
        ("prompt,completion\n a, c\n", {"prompt": " a", "completion": " c"}),
        ("sep=;\nprompt;completion\na;c\n", {"prompt": "a", "completion": "c"}),
        ("SEP=\t\r\nprompt\tcompletion\r\na\tc\r\n", {"prompt": "a", "completion": "c"}),
        (
            ",prompt,completion,,\n0,a,c,,\n",
            {"column 1": "0", "prompt": "a", "completion": "c", "column 4": "", "column 5": ""},
        ),
    ],
)
def test_habits_of_spreadsheets(tmp_path: Path, content: str, values: dict[str, str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    (row,) = rows_in(path)
    assert isinstance(row, RawRow) and row.values == values
    assert row.line == content.count("\n")


@pytest.mark.parametrize("number", ["1" * 30, "-" + "9" * 19, "18446744073709551616", "1" * 5000, "1.5", "1e400"])
def test_long_integers_keep_their_digits(tmp_path: Path, number: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"question": "How many?", "answer": {number}}}\n', encoding="utf-8")
    rows = rows_in(path)
    if len(number) < 100 and number.lstrip("-").isdigit():
        assert isinstance(rows[0], RawRow) and str(rows[0].values["answer"]) == number
    else:
        assert len(rows) == 1


def test_a_table_of_too_many_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(f"c{at}" for at in range(10_001)) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        rows_in(path)
    assert refused.value.text == Text("csv.too_many_columns", file="rows.csv", columns=10_001, limit=10_000)
