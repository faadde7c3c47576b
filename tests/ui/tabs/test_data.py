"""What the page may ask about data, answered by the real children: reports, progress, stopping, refusals."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text
from ui.server import path_policy
from ui.server.endpoints import as_endpoint
from ui.tabs.data import SAMPLE_CHATS, DataActions


@pytest.fixture
def actions(tmp_path: Path) -> DataActions:
    return DataActions(Workspace(tmp_path / "workspace"))


def reply(action: Callable[..., object], values: dict[str, object]) -> Any:
    return as_endpoint(action)(values)


def saved(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def foreign(n: int) -> dict[str, str]:
    return {"frage": f"why {n}?", "gut": f"so {n} it is", "schlecht": f"no {n}"}


def test_a_mapping_reaches_the_report_and_is_remembered(actions: DataActions, tmp_path: Path) -> None:
    source = saved(tmp_path / "x.jsonl", [foreign(n) for n in range(40)])
    seen = reply(actions.inspect_file, {"source": source})
    assert str(Text("schema.columns", count=3, names="frage, gut, schlecht")) in seen["problem"]
    assert seen["remembered"] is None
    columns = {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}
    report = reply(actions.check_file, {"source": source, "columns": columns, "ticket": "1"})
    assert (report["kind"], report["usable"], report["held_out"]) == ("pairs", 40, 10)
    reply(actions.remember_columns, {"names": ["frage", "gut", "schlecht"], "columns": columns})
    assert reply(actions.inspect_file, {"source": source})["remembered"] == columns
    assert not actions.readers and not actions.progress


def test_the_samples_have_names(actions: DataActions) -> None:
    assert reply(actions.check_file, {"source": "sample"})["kind"] == "pairs"
    assert reply(actions.check_file, {"source": SAMPLE_CHATS})["kind"] == "chat"


def test_a_long_check_tells_how_far_it_is_and_can_be_stopped(actions: DataActions, tmp_path: Path) -> None:
    source = saved(
        tmp_path / "x.jsonl", [{"prompt": f"w {n}", "chosen": "so " * 20, "rejected": "no"} for n in range(200_000)]
    )
    said: list[dict] = []
    check = threading.Thread(target=lambda: said.append(reply(actions.check_file, {"source": source, "ticket": "7"})))
    check.start()
    end = time.monotonic() + 60
    while not (at := reply(actions.check_progress, {"ticket": "7"})) and time.monotonic() < end:
        time.sleep(0.01)
    assert 0 < at["bytes"] <= at["of"] and at["file"] == "x.jsonl" and at["rows"] >= 2000
    reply(actions.stop_check, {"ticket": "7"})
    check.join(30)
    assert said == [{"problem": str(Text("reader.limit", path=source, limit=Text("reader.stopped")))}]
    assert reply(actions.check_progress, {"ticket": "7"}) == {}


def test_prompts_of_the_held_out_file_are_found(actions: DataActions, tmp_path: Path) -> None:
    source = saved(tmp_path / "x.jsonl", [foreign(n) for n in range(40)])
    held_out = saved(tmp_path / "held-out.jsonl", [foreign(n) for n in (3, 4, 99)])
    asked = {"source": source, "columns": {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}, "ticket": "1"}
    for chosen, count in (({}, []), ({"held_out": held_out}, [2])):
        found = reply(actions.check_file, {**asked, **chosen})["findings"]
        assert [one["count"] for one in found if one["code"] == "leaked"] == count
    by_itself = reply(actions.check_file, {**asked, "held_out": "sample"})
    assert not [one for one in by_itself["findings"] if one["code"] == "leaked"]


def test_from_another_computer_no_other_held_out_file_is_read(
    actions: DataActions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = saved(tmp_path / "held-out.jsonl", [foreign(3)])
    monkeypatch.setattr(path_policy, "is_remote", lambda: True)
    answer = reply(actions.check_file, {"source": "sample", "held_out": held_out})
    assert answer == {"problem": str(Text("path_policy.data", source=held_out))}


def test_a_refusal_is_a_sentence_and_nonsense_is_named(actions: DataActions, tmp_path: Path) -> None:
    missing = reply(actions.inspect_file, {"source": str(tmp_path / "x")})
    assert missing == {"problem": str(Text("files.missing", path=tmp_path / "x"))}
    assert "steps.0" in reply(actions.check_file, {"source": "sample", "steps": ["polish"]})["problem"]
    assert reply(actions.check_file, {"source": ""})["problem"].startswith("Path: ")


def test_only_what_was_dropped_into_the_page_is_copied(actions: DataActions, tmp_path: Path) -> None:
    mine = tmp_path / "secret.jsonl"
    mine.write_text("{}")
    told = reply(actions.keep_upload, {"source": str(mine)})
    assert told == {"problem": str(Text("data_tab.not_dropped", path=mine))}
    assert mine.exists()
