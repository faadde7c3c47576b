"""Run folders as data of a stranger: what is opened, what is read, and a page that shows all runs whatever one of them holds."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_cases import answered, run_folder, time_limit
from tests.support.serve import machine
from tests.trainer_core.runs.test_events import EXAMPLES
from trainer_core.cli import terminal
from trainer_core.diagnosis import html_report
from trainer_core.errors import ConfigError, DiskError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import trash
from trainer_core.runs.event_log import MAX_LINE_BYTES, MAX_UNREADABLE_NOTES, EventLog, Tail
from trainer_core.runs.events import Notice, Phase, RunEnded
from trainer_core.runs.run_folder import datetime, read_run, run_start_time
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import untrusted_files
from trainer_core.system.untrusted_files import UnsafeFile
from trainer_core.texts import verbatim
from ui.payloads import run, run_facts, run_list

POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes, links and names as bytes")


def supervisor(root: Path) -> Supervisor:
    return Supervisor(Workspace(root / "workspace"), device="cpu", read_machine=lambda: machine(0))


def put(path: Path, what: str) -> None:
    """Something that is no regular file, or one that is too large, under a name."""
    path.unlink(missing_ok=True)
    match what:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/etc/passwd")
        case "loop":
            path.symlink_to(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "socket":
            here = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 107 letters
            socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
        case "large":
            path.touch()
            os.truncate(path, untrusted_files.MAX_FILE_BYTES + 1)


ODD = ("pipe", "link", "loop", "device", "folder", "large")


@POSIX
@pytest.mark.parametrize("what", [*ODD, "socket"])
def test_only_regular_files_are_opened(tmp_path: Path, what: str) -> None:
    put(tmp_path / "x", what)
    with time_limit(20):
        with pytest.raises(UnsafeFile):
            untrusted_files.read_regular_file(tmp_path, "x")
        if what != "large":
            with pytest.raises(UnsafeFile):
                untrusted_files.open_for_append(tmp_path, "x")


@POSIX
def test_nothing_behind_a_link_is_opened(tmp_path: Path) -> None:
    (tmp_path / "outside" / "inner").mkdir(parents=True)
    (tmp_path / "outside" / "inner" / "x").write_text("canary")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeFile, match="behind a link"):
        untrusted_files.read_regular_file(tmp_path / "run", "a/inner/x")
    assert untrusted_files.read_regular_file(tmp_path / "outside", "inner/x") == b"canary"


NAMES = {"x": True, "a/b.json": True, "Größe 1.bin": True, "..": False, "a/../b": False, "/a": False, "a//b": False, "": False,
         "a\\b": False, "C:x": False, "a\0": False, "a\n": False, "\udcff": False, "a/": False, "./a": False, "a.": False,
         " ": False, "x" * 2000: False, "...": False}  # fmt: skip


@pytest.mark.parametrize(("name", "good"), NAMES.items(), ids=repr)
def test_names_of_files_in_a_run(name: str, good: bool) -> None:
    if good:
        assert untrusted_files.check_relative_name(name) == name
    else:
        with pytest.raises(ValueError, match="not the name of a file"):
            untrusted_files.check_relative_name(name)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, "1" * 5000, str(2**63), f"[-{2**64}]", "{", "", "{1: 2}"]
)
def test_json_that_is_none_or_holds_too_much(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each by its own words)
        untrusted_files.parse_json(text.encode())


def test_json_text_is_valid_unicode() -> None:
    told = untrusted_files.parse_json(
        b'\xef\xbb\xbf {"\\ud83d": "\\ud83d\\ude00 \\udc00 \xff", "n": 9223372036854775807} '
    )
    assert told == {"\ufffd": "😀 \ufffd \ufffd", "n": 2**63 - 1}
    assert math.isnan(untrusted_files.parse_json(b"NaN"))


# --- run.json


def test_settings_of_another_version_are_left_out_and_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    whole = read_run(folder)
    assert whole.notes == ()
    values = json.loads((folder / "run.json").read_text())
    values["job"]["recipe"]["lora"]["later"] = values["later"] = {"deep": [1]}
    for key in ("id", "created", "version"):
        del values[key]
    del values["job"]["recipe"]["sft"]["learning_rate"]
    (folder / "run.json").write_text(json.dumps(values))
    told = read_run(folder)
    assert told.model_dump() == whole.model_dump() and told.id == folder.name and told.created == whole.created
    assert {"later", "job.recipe.lora.later"} <= set(told.notes[0].params["names"].split(", "))
    boss = supervisor(tmp_path)
    assert answered(boss) == ""
    assert run_list.RunRows(boss.registry)()[0][0]["problem"] == str(told.notes[0])
    assert str(told.notes[0]) in run_facts.facts_payload(boss.registry, boss.registry.current_run)["notes"]  # type: ignore[index]


@pytest.mark.parametrize(
    "said", ["", "yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-13-01", "²", "20260101"]
)
@pytest.mark.parametrize("name", ["20260131-120000-x-1234", "99999999-999999-x", "my copy"])
def test_when_a_run_began_is_always_a_date(tmp_path: Path, said: str, name: str) -> None:
    (tmp_path / name).mkdir()
    when = datetime.fromisoformat(run_start_time(tmp_path / name, said))
    assert when.tzinfo and 1970 <= when.astimezone().year < 9999
    if name.startswith("2026") and said != "20260101":
        assert when.isoformat() == "2026-01-31T12:00:00+00:00"


HOSTILE: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    -1,
    10**18,
    10**25,
    10**400,
    "\ud800",
    "",
    None,
    [],
    {"a": [1]},
]


def places(values: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, value in values.items() if isinstance(values, dict) else ():
        yield (*above, key)
        yield from places(value, (*above, key))


def test_every_value_of_a_run_json_may_be_odd_or_missing(tmp_path: Path) -> None:
    """Each key with two odd values in turn, and left out; the page shows that run and the one beside it."""
    folder = run_folder(tmp_path)
    run_folder(tmp_path, name="good")
    whole = (folder / "run.json").read_text()
    shutil.rmtree(tmp_path / "workspace" / "compare", ignore_errors=True)
    keys = list(places(json.loads(whole)))
    assert len(keys) > 60
    boss = supervisor(tmp_path)
    for at, place in enumerate(keys):
        values = json.loads(whole)
        inner = values
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]
        odd = [{place[-1]: HOSTILE[(at + shift) % len(HOSTILE)]} for shift in (0, 5)]
        for more in ({}, *odd) if at % 3 == 0 else odd[:1]:
            saved = dict(inner)
            inner.update(more)
            (folder / "run.json").write_text(json.dumps(values))
            inner.clear(), inner.update(saved)
            run.read_run_settings.cache_clear()
            assert answered(boss) == "", (place, more)
            run.run_option(folder, boss.registry.run_state(folder.name))


@POSIX
@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", ["run.json", "events.jsonl", "about.json"])
def test_one_bad_run_is_one_row_that_can_be_thrown_away(tmp_path: Path, name: str, what: str) -> None:
    folder = run_folder(tmp_path)
    run_folder(tmp_path, name="good")
    put(folder / name, what)
    with time_limit(60):
        boss = supervisor(tmp_path)
        assert answered(boss) == ""
        (row,) = (row for row in run_list.RunRows(boss.registry)()[0] if row["id"] == folder.name)
        if name == "events.jsonl" and what != "large":
            assert row["problem"].startswith("Cannot be shown: events.jsonl ") and row["badge"] == "Unreadable"
            with pytest.raises(ConfigError, match="cannot be resumed"):
                boss.control.resume(folder.name)
            with pytest.raises(DiskError):
                EventLog(folder / name)
        assert bool(row["problem"]) == (name == "run.json" or name == "events.jsonl" and what != "large")
        boss.control.move_to_trash(folder.name)
        assert (
            {view.id for view in boss.registry.run_states}
            == {row["id"] for row in run_list.RunRows(boss.registry)()[0]}
            != set()
        )
        assert [one["id"] for one in run_list.trash_payload(boss.workspace)["runs"]] == [folder.name]


@POSIX
def test_a_row_that_cannot_be_made_does_not_take_the_others_along(tmp_path: Path) -> None:
    """Whatever it is: here a view that no code expects."""
    broken, good = run_folder(tmp_path), run_folder(tmp_path, name="good")
    boss = supervisor(tmp_path)
    boss.registry.watchers[broken.name].state = RunState(broken.name, Phase.DONE, points=("no step",))  # type: ignore[arg-type]
    rows = {row["id"]: row for row in run_list.RunRows(boss.registry)()[0]}
    assert rows[broken.name]["problem"].startswith("Cannot be shown: AttributeError") and not rows[good.name]["problem"]
    assert rows[broken.name].keys() == rows[good.name].keys()


@POSIX
def test_a_folder_whose_name_is_no_text_is_shown_and_can_be_thrown_away(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    odd = folder.with_name(os.fsdecode(b"20260101-caf\xe9-\x1b[2J"))
    folder.rename(odd)
    boss = supervisor(tmp_path)
    assert answered(boss) == ""
    (row,) = run_list.RunRows(boss.registry)()[0]
    assert row["id"] == r"20260101-caf\udce9-\x1b[2J" and row["id"].isprintable()
    boss.control.move_to_trash(row["id"])
    assert not odd.exists()
    trash.restore_run(boss.workspace, row["id"])
    boss.registry.refresh()
    assert odd.exists() and boss.registry.run_dir(row["id"]) == odd


# --- events


def test_every_field_of_every_event_may_be_odd_or_missing(tmp_path: Path) -> None:
    """Then it is a note, or shown as what it is: no part of any tab is empty, and the report and the terminal say it."""
    folder = run_folder(tmp_path, done=False)
    sound = (folder / "events.jsonl").read_text()
    boss, at = supervisor(tmp_path), 0
    for event in EXAMPLES:
        for one in fields(event):
            for shift in (0, 4, 9):
                at += 1
                values = {"kind": type(event).__name__} | asdict(event)
                values[one.name] = HOSTILE[(at + shift) % len(HOSTILE)]
                if shift == 9:
                    del values[one.name]
                ends = {"kind": "Ended", "phase": "done"}
                (folder / "events.jsonl").write_text(f"{sound}{json.dumps(values)}\n{json.dumps(ends)}\n")
                boss.registry.watchers = {}
                boss.registry.refresh()
                assert not boss.registry.last_error and answered(boss) == "", values
                html_report.render_run_report(html_report.load_report_data(folder)).encode()
                terminal.run_line(boss.registry.run_states[0]).encode()
                list(terminal.describe_changes(RunState(""), boss.registry.run_states[0]))
    assert at > 300


def test_a_flood_of_lines_that_are_none_is_a_few_notes(tmp_path: Path) -> None:
    lines = [f'{{"kind": "None", "n": {at}}}' for at in range(50_000)]
    view = read_run_state(run_folder(tmp_path, lines))
    assert len(view.notes) == MAX_UNREADABLE_NOTES + 1 and view.phase is Phase.DONE and len(view.points) == 10


def test_a_line_longer_than_any_event_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b'{"kind": "Noted", "text": "' + b"x" * (2 * MAX_LINE_BYTES) + b'"}\n{"kind": "Noted", "text": "y"}\n'
    )
    told = list(Tail(path))
    assert len(told) == 2 and told[1] == Notice(verbatim("y")) and told[0].text.code == "log.line_too_long"  # type: ignore[union-attr]


def test_keys_of_another_version_are_named_once(tmp_path: Path) -> None:
    ended = {"kind": "Ended", "phase": "done", "why": "x"}
    view = read_run_state(run_folder(tmp_path, [json.dumps(ended), json.dumps(ended)], done=False))
    assert view.phase is Phase.DONE and len(view.notes) == 1 and view.notes[0].params["names"] == "why"


@pytest.mark.parametrize("folder", ["../../x", "/etc", "..", "a\0b"])
def test_an_adapter_lies_in_its_run(tmp_path: Path, folder: str) -> None:
    saved = {"kind": "Saved", "stage": "dpo", "folder": folder, "bytes": 1, "step": 1}
    view = read_run_state(run_folder(tmp_path, [json.dumps(saved)]))
    assert view.adapters == {"sft": "adapter-sft"} and len(view.notes) == 1


@POSIX
def test_a_run_at_work_writes_through_no_link(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("as it was\n")
    for name in ("events.jsonl", ".reserve", "worker.log"):
        folder = tmp_path / f"run-{name}"
        folder.mkdir()
        (folder / name).symlink_to(canary)
        if name == "worker.log":
            with pytest.raises(UnsafeFile):
                untrusted_files.open_for_append(folder, name)
        elif name == ".reserve":
            EventLog(folder / "events.jsonl")(RunEnded(Phase.DONE))
        else:
            with pytest.raises(DiskError, match="is a link"):
                EventLog(folder / "events.jsonl")
    assert canary.read_text() == "as it was\n"
