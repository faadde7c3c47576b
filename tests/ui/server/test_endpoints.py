"""Which functions the page may call, and that a reply holds nothing but what was meant for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer_core.errors import BusyError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel
from trainer_core.system.project import PROJECT
from trainer_core.texts import verbatim
from ui.server.endpoints import as_endpoint, public_endpoints
from ui.tabs.compare_actions import compare_endpoints
from ui.tabs.data import DataActions

COMPARE = {
    "vote", "undo_vote", "show_next_question", "retry_with_new_seed", "end_voting", "save_better_answer", "export_pairs",
    "reload_lanes", "stop", "adjust_lane", "show_heatmap", "score_lanes", "start_judge", "stop_judge", "download_votes",
}  # fmt: skip
DATA = {
    "inspect_file", "check_file", "check_progress", "stop_check", "keep_upload", "fetch_part", "remember_columns",
    "preview_row", "measure_lengths",
}  # fmt: skip


class Amount(StrictModel):
    amount: int = 1


@dataclass
class Secret:
    name: str = "DPO"


class Actions:
    def double(self, request: Amount) -> dict[str, int]:
        return {"amount": 2 * request.amount}

    def keep_secret(self) -> Secret:
        return Secret()

    def refuse(self) -> None:
        raise BusyError(verbatim("Not now."))

    def _hidden(self) -> None: ...


def test_a_page_can_call_exactly_these(tmp_path: Path) -> None:
    compare = compare_endpoints(Supervisor(Workspace(tmp_path / "workspace")))
    assert {one.__name__ for one in compare} == COMPARE
    assert {one.__name__ for one in public_endpoints(DataActions(Workspace(tmp_path / "workspace")))} == DATA


@pytest.mark.parametrize(("script", "names"), [("compare.js", COMPARE), ("data.js", DATA)])
def test_the_scripts_call_no_others(script: str, names: set[str]) -> None:
    code = (PROJECT / "assets" / "web" / script).read_text(encoding="utf-8")
    called = {*re.findall(r'callEndpoint\("(\w+)"', code), *re.findall(r"server\.(\w+)\(", code)}
    assert called == names


def test_a_request_is_parsed_by_its_annotation() -> None:
    double, secret, refuse = public_endpoints(Actions())
    assert double({"amount": 4}) == {"amount": 8} and double() == {"amount": 2}
    assert "is not a whole number" in str(double({"amount": "x"})["problem"])
    assert "more" in str(double({"more": 1})["problem"])
    assert secret({}) == {} and refuse({}) == {"problem": "Not now."}


def test_bound_arguments_come_first() -> None:
    def add(start: int, request: Amount) -> dict[str, int]:
        return {"sum": start + request.amount}

    endpoint = as_endpoint(add, 40)
    assert endpoint.__name__ == "add" and endpoint({"amount": 2}) == {"sum": 42}
