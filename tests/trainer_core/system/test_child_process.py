"""One child, one protocol: whatever becomes of the child, its parent gets the answers and one last word."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected, SharedChild
from trainer_core.texts import NO_TEXT, VERBATIM, Text

SERVER = """
import os, sys, time
from trainer_core.errors import DataError
from trainer_core.system.child_process import serve_requests
from trainer_core.texts import Text

def count(most):
    print("noise of a library")
    yield from range(most)

def reject_file(file):
    yield 1
    raise DataError("rows.fault", place=file, reason=Text("verbatim", text="half \\ud800"))

def raise_rejected(text):
    raise LookupError(text)

def fail(error):
    yield 1
    raise {"bug": ZeroDivisionError, "memory": MemoryError}[error]("here")

def leave(line):
    os.write(1, line.encode())
    os._exit(7)

serve_requests({
    "count": count, "reject": reject_file, "refuse": raise_rejected,
    "fail": fail, "leave": leave, "echo": lambda **fields: [fields],
    "sleep": lambda seconds: [time.sleep(seconds)],
}, (DataError, LookupError))
"""


def start(**limits: float) -> ChildProcess:
    return ChildProcess((sys.executable, "-c", SERVER), ChildLimits(**limits))


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    child = start()
    yield child
    child.close()


def test_answers_come_under_the_name_of_their_class(child: ChildProcess) -> None:
    assert list(child.ask("count", {"most": 3})) == [("int", 0), ("int", 1), ("int", 2)]
    odd = {"half": "\ud800", "line": "a\nb\u2028", "signs": "é👩", "none": None}
    assert list(child.ask("echo", odd)) == [("dict", odd)], "halves of surrogate pairs too: a template may hold one"


def test_the_child_serves_on_after_each_last_word(child: ChildProcess) -> None:
    heard = list[int]()
    with pytest.raises(Rejected) as rejected:
        heard.extend(answer for _, answer in child.ask("reject", {"file": "rows.csv"}))
    reason = Text(VERBATIM, text="half \ud800")
    assert (rejected.value.kind, rejected.value.text) == (
        "DataError",
        Text("rows.fault", place="rows.csv", reason=reason),
    )
    assert heard == [1]
    with pytest.raises(Rejected, match="^no$") as refused:
        list(child.ask("refuse", {"text": "no"}))
    assert (refused.value.kind, refused.value.text) == ("LookupError", Text(VERBATIM, text="no"))
    with pytest.raises(Crashed) as bug:
        list(child.ask("fail", {"error": "bug"}))
    assert "ZeroDivisionError: here" in bug.value.traceback and not bug.value.out_of_memory and not bug.value.limit
    with pytest.raises(Crashed) as lack:
        list(child.ask("fail", {"error": "memory"}))
    assert lack.value.out_of_memory
    assert len(list(child.ask("count", {"most": 2}))) == 2


@pytest.mark.parametrize("line", ["", '["int", 1', "no JSON\n", "[1]\n"], ids=["silent", "cut", "garbage", "other"])
def test_a_child_that_ends_without_a_last_word_has_crashed(child: ChildProcess, line: str) -> None:
    with pytest.raises(Crashed) as crash:
        list(child.ask("leave", {"line": line}))
    assert crash.value.code == 7 and not crash.value.limit and not crash.value.traceback
    with pytest.raises(Crashed):
        list(child.ask("count", {"most": 1}))


def test_an_answer_that_is_overdue_ends_the_child() -> None:
    child = start(answer_seconds=0.3, watch_seconds=0.02)
    begun = time.monotonic()
    with pytest.raises(Crashed, match="does not end within 0 s") as crash:
        list(child.ask("sleep", {"seconds": 60}))
    assert crash.value.limit == Text("child.late", seconds=0.3)
    assert time.monotonic() - begun < 20 and child.process.poll() is not None
    child.close()


def test_a_child_may_be_idle_for_longer_than_an_answer_may_take() -> None:
    child = start(answer_seconds=5, watch_seconds=0.02)
    list(child.ask("count", {"most": 1}))
    assert not child.find_broken_limit() and time.monotonic() < child.deadline - 1e6
    child.close()


def test_a_stop_is_the_last_word(child: ChildProcess) -> None:
    answers = child.ask("count", {"most": 10_000_000})
    next(answers)
    child.stop(Text("reader.stopped"))
    with pytest.raises(Crashed) as crash:
        list(answers)
    assert crash.value.limit == Text("reader.stopped")


def test_a_stop_while_the_limits_are_looked_at_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Text("reader.stopped")
    monkeypatch.setattr(ChildProcess, "find_broken_limit", lambda child: child.stop(stopped) or NO_TEXT)
    child = start(watch_seconds=0.02)
    with pytest.raises(Crashed) as crash:
        list(child.ask("sleep", {"seconds": 60}))
    assert crash.value.limit == stopped
    child.close()


def test_answers_that_nobody_took_are_not_those_to_the_next_request() -> None:
    shared = SharedChild(start)
    with shared.ask("count", {"most": 5}) as answers:
        assert next(answers) == ("int", 0)
    with shared.ask("echo", {"a": 1}) as answers:
        assert list(answers) == [("dict", {"a": 1})]
    shared.close()


def test_a_shared_child_is_kept_ended_when_idle_and_started_anew() -> None:
    shared, found = SharedChild(start, idle_seconds=0.5), list[psutil.Process]()
    for _ in range(2):
        for _ in range(2):
            with shared.ask("count", {"most": 1}) as answers:
                assert len(list(answers)) == 1
            assert shared.child and shared.timer
            found.append(psutil.Process(shared.child.process.pid))
        shared.timer.join(10)
        assert not found[-1].is_running()
    assert found[0] == found[1] != found[2] == found[3]
    with pytest.raises(Crashed, match="exit code 7"), shared.ask("leave", {"line": ""}) as answers:
        list(answers)
    with shared.ask("count", {"most": 1}) as answers:
        assert len(list(answers)) == 1
    shared.close()


@pytest.mark.parametrize(
    "line",
    ["5\n", '[["a"], {}]\n', '["Crashed", {"x": 1}]\n', '["Rejected", {"kind": "", "text": 3}]\n', "[1, 2, 3]\n"],
)
def test_a_line_of_another_form_is_a_crash(child: ChildProcess, line: str) -> None:
    with pytest.raises(Crashed) as caught:
        list(child.ask("leave", {"line": line}))
    assert caught.value.code == 7
