"""Only the user at this computer moves and deletes files; others may look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.context import LocalContext

from tests.support.scripted import scripted_app
from trainer_core.storage.places import find_place
from trainer_core.texts import Text
from ui.server.storage_requests import storage_functions


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[dict[str, Callable[..., dict[str, Any]]]]:
    app = scripted_app(tmp_path / "workspace")
    (app.workspace.exports / "mine").mkdir()
    (app.workspace.exports / "mine" / "file").write_text("x")
    yield {one.__name__: one for one in storage_functions(app)} | {
        "place": lambda: find_place(app.workspace, "exports")
    }
    app.close()


def test_from_another_computer_nothing_moves_and_nothing_is_deleted(
    calls: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    neighbour: Any = SimpleNamespace(client=SimpleNamespace(host="192.168.0.7"))
    token = LocalContext.request.set(neighbour)
    try:
        refused = str(Text("path_policy.storage"))
        assert calls["move_storage"]({"kind": "exports", "to": str(tmp_path / "drive")}) == {"problem": refused}
        assert calls["free_storage"]({"key": "exports:mine"}) == {"problem": refused}
        assert calls["stop_move"]() == {"problem": refused}
        assert calls["storage_report"]()["groups"]
    finally:
        LocalContext.request.reset(token)
    assert calls["place"]() is None and (tmp_path / "workspace" / "exports" / "mine" / "file").exists()


def test_at_this_computer_one_is_freed_and_the_report_is_new(
    calls: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    titles = [group["title"] for group in calls["free_storage"]({"key": "exports:mine"})["groups"]]
    assert str(Text("storage_groups.exports")) not in titles
    assert not (tmp_path / "workspace" / "exports" / "mine").exists()


@pytest.mark.parametrize(
    "asked", [{}, {"kind": "all", "to": ""}, {"kind": "runs", "to": 3}, None, {"kind": ["runs"], "to": "x"}]
)
def test_what_is_no_question_is_refused(calls: dict[str, Callable[..., Any]], asked: Any) -> None:
    assert calls["move_storage"](asked)["problem"]
